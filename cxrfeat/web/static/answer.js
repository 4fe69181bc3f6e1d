// Render a prediction or an error message. The script sets widths, because the page allows no inline styles.
const byId = (id) => document.getElementById(id);
const UPPER = [0.05, 0.1, 0.2, 0.3, 0.5, 1];

export const spell = (name) => name.replaceAll("_", " ");

export function percent(share, digits = share > 0 && share < 0.01 ? 2 : 1) {
  if (share > 0 && share < 0.00005) return "<\u00a00.01\u00a0%";
  return share === null ? "–" : `${(share * 100).toFixed(digits)}\u00a0%`;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

export function show(content, onSelect) {
  showAny(content.any_finding);
  showFindings(content.findings, onSelect);
  byId("assumptions").replaceChildren(...content.assumptions.map((entry) => make("p", "", entry.text)));
}

function showAny({ score, threshold, positive }) {
  byId("any-score").textContent = score.toFixed(2);
  const verdict = { true: "▲ At or above", false: "Below" }[positive];
  byId("any-verdict").textContent =
    threshold === null
      ? "A score for ranking X-rays; it has no threshold."
      : `${verdict} its threshold of ${threshold.toFixed(2)}. A score for ranking X-rays, not a probability.`;
}

function showFindings(findings, onSelect) {
  const previous = document.querySelector("input[name=finding]:checked")?.value;
  const sorted = [...findings].sort((one, other) => other.probability - one.probability);
  const highest = Math.max(...findings.flatMap(({ probability, threshold, prevalence }) => [probability, threshold, prevalence]));
  const upper = UPPER.find((limit) => highest <= limit);
  byId("scale").textContent = `full bar: ${percent(upper, 0)}`;
  byId("findings").replaceChildren(...sorted.map((entry) => makeRow(entry, upper, () => onSelect(entry))));
  const selected = sorted.find((entry) => entry.finding === previous) ?? sorted[0];
  const radios = [...byId("findings").querySelectorAll("input")]; // not by a selector: a label may hold any character
  radios.find((radio) => radio.value === selected.finding).checked = true;
  onSelect(selected);
}

function makeRow(entry, upper, onSelect) {
  const row = make("label", entry.positive ? "finding positive" : "finding");
  const radio = make("input");
  Object.assign(radio, { type: "radio", name: "finding", value: entry.finding });
  radio.addEventListener("change", onSelect);
  const track = make("span", "track");
  track.append(place(make("span", "bar"), "width", entry.probability / upper));
  if (entry.prevalence !== null) track.append(place(make("span", "prevalence"), "left", entry.prevalence / upper));
  if (entry.threshold !== null) track.append(place(make("span", "threshold"), "left", entry.threshold / upper));
  row.append(radio, make("span", "name", spell(entry.finding)), track, make("span", "value", percent(entry.probability)));
  row.append(make("span", "verdict unseen", describe(entry)));
  row.title = describe(entry);
  return row;
}

function place(mark, property, share) {
  mark.style[property] = `${Math.min(share, 1) * 100}%`;
  return mark;
}

function describe({ positive, threshold, prevalence }) {
  const verdict = threshold === null ? "no threshold" : `${positive ? "at or above" : "below"} the threshold of ${percent(threshold)}`;
  return `${verdict}; present in ${prevalence === null ? "an unknown share" : percent(prevalence)} of training X-rays`;
}

export function showRefusal({ title, detail, reason }) {
  const text = make("p");
  text.append(make("strong", "", title), make("small", "", `${reason}: ${detail}`));
  const refusal = byId("refusal");
  refusal.replaceChildren(text);
  refusal.hidden = false;
}
