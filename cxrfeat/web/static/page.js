// The page's course: a film is chosen, sent, and answered or refused. Nothing is asked twice for another finding.
import { Viewer } from "./viewer.js";
import { show, showRefusal } from "./answer.js";

const byId = (id) => document.getElementById(id);
const viewer = new Viewer();
const fields = [byId("age"), byId("sex")].filter(Boolean);
let film = null; // bytes, name; shown: promise that the browser has done with it; fitted: has its decoded shape
let request = null;

function take(bytes, name) {
  byId("answer").hidden = true;
  viewer.close();
  const address = URL.createObjectURL(bytes);
  film = { bytes, name, fitted: false, shown: viewer.open(address, name).finally(() => URL.revokeObjectURL(address)) };
  return ask();
}

async function ask() {
  request?.abort(); // the visitor has moved on
  const mine = (request = new AbortController());
  const query = new URLSearchParams(fields.filter((field) => field.value !== "").map((field) => [field.id, field.value]));
  say(`Reading ${film.name} …`, true);
  byId("refusal").hidden = true;
  try {
    // Never with the file's own type, which browsers take from its name: the bytes decide.
    const options = { method: "POST", body: film.bytes, headers: { "Content-Type": "application/octet-stream" }, signal: mine.signal };
    const response = await send(`/api/predict?${query}`, options);
    const content = await response.json();
    await film.shown;
    if (request !== mine) return;
    if (response.ok) answer(content);
    else refuse(content);
  } catch (error) {
    if (error.name === "AbortError") return;
    refuse({ title: "The server can't be reached. Is it still running?", detail: error.message, reason: "no-connection" });
  } finally {
    if (request === mine) document.body.classList.remove("busy");
  }
}

// Send a film; where many are being read, come back as often as that may help.
async function send(address, options, attempts = 5) {
  const response = await fetch(address, options);
  if (response.status !== 503 || attempts === 1) return response;
  const seconds = Number(response.headers.get("Retry-After")) || 1;
  say(`Many films are being read: trying again in ${seconds} s …`, true);
  await new Promise((resume) => setTimeout(resume, seconds * 1000));
  return send(address, options, attempts - 1);
}

function answer(content) {
  const positive = content.findings.filter((entry) => entry.positive).length;
  byId("answer").hidden = false;
  byId("blank").hidden = true;
  if (!film.fitted) viewer.fit(content.film); // and later, with another age, the visitor's zoom stays
  film.fitted = true;
  show(content, (entry) => viewer.explain(entry));
  say(`${film.name}: ${positive} of 14 findings at or above their thresholds.`, false);
}

function refuse(problem) {
  viewer.explain(null);
  byId("answer").hidden = true;
  byId("blank").hidden = false;
  showRefusal(problem);
  if (problem.reason !== "busy" && problem.reason !== "invalid-request") viewer.close();
  say(`${film.name}: no answer.`, false);
}

function say(text, busy) {
  document.body.classList.toggle("busy", busy);
  byId("status").textContent = text;
}

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file, file.name);
  event.target.value = ""; // so that the same file can be chosen again
});

byId("intake").addEventListener("submit", (event) => event.preventDefault());
for (const field of fields) field.addEventListener("change", () => film && ask());

byId("examples").addEventListener("click", async (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  for (const field of fields) field.value = chosen.dataset[field.id];
  const response = await fetch(chosen.dataset.url);
  await take(await response.blob(), `Phantom “${chosen.dataset.name}”`);
});

const drop = byId("drop");
// Anywhere on the page: a film that misses the frame must not replace the page.
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
});
