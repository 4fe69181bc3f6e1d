// Page flow: choose an X-ray, upload it, show the prediction or an error. Selecting a finding sends no request.
import { Viewer } from "./viewer.js";
import { show, showRefusal } from "./answer.js";

const byId = (id) => document.getElementById(id);
const viewer = new Viewer();
const fields = [byId("age"), byId("sex")].filter(Boolean);
let image = null; // bytes, name; shown: resolves when the browser has decoded it; fitted: has the decoded shape
let request = null;

function load(bytes, name) {
  byId("answer").hidden = true;
  viewer.close();
  const address = URL.createObjectURL(bytes);
  image = { bytes, name, fitted: false, shown: viewer.open(address, name).finally(() => URL.revokeObjectURL(address)) };
  return predict();
}

async function predict() {
  request?.abort(); // superseded by this one
  const current = (request = new AbortController());
  const query = new URLSearchParams(fields.filter((field) => field.value !== "").map((field) => [field.id, field.value]));
  setStatus(`Analysing ${image.name} …`, true);
  byId("refusal").hidden = true;
  try {
    // Never the file's own type, which browsers derive from its name: the server inspects the bytes.
    const options = { method: "POST", body: image.bytes, headers: { "Content-Type": "application/octet-stream" }, signal: current.signal };
    const response = await send(`/api/predict?${query}`, options);
    const content = await response.json();
    if (response.ok && content.film.preview) image.shown = showPreview(content.film.preview, image.name);
    await image.shown;
    if (request !== current) return;
    if (response.ok) showPrediction(content);
    else showProblem(content);
  } catch (error) {
    if (error.name === "AbortError") return;
    showProblem({ title: "The server does not respond. Is it still running?", detail: error.message, reason: "no-connection" });
  } finally {
    if (request === current) document.body.classList.remove("busy");
  }
}

// Show an image in a format that browsers do not know, as the server decoded it.
function showPreview(encoded, name) {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  return viewer.open(address, name).finally(() => URL.revokeObjectURL(address));
}

// Upload an image; retry while the server is busy.
async function send(address, options, attempts = 5) {
  const response = await fetch(address, options);
  if (response.status !== 503 || attempts === 1) return response;
  const seconds = Number(response.headers.get("Retry-After")) || 1;
  setStatus(`The server is busy: trying again in ${seconds} s …`, true);
  await new Promise((resume) => setTimeout(resume, seconds * 1000));
  return send(address, options, attempts - 1);
}

function showPrediction(content) {
  const positive = content.findings.filter((entry) => entry.positive).length;
  byId("answer").hidden = false;
  byId("blank").hidden = true;
  if (!image.fitted) viewer.fit(content.film); // only once: a change of age or sex keeps the zoom
  image.fitted = true;
  show(content, (entry) => viewer.explain(entry));
  const count = content.findings.length;
  const noun = byId("results").dataset.noun + (count > 1 ? "s" : "");
  setStatus(`${image.name}: ${positive} of ${count} ${noun} at or above ${count > 1 ? "their thresholds" : "its threshold"}.`, false);
}

function showProblem(problem) {
  viewer.explain(null);
  byId("answer").hidden = true;
  byId("blank").hidden = false;
  showRefusal(problem);
  if (problem.reason !== "busy" && problem.reason !== "invalid-request") viewer.close();
  setStatus(`${image.name}: no prediction.`, false);
}

function setStatus(text, busy) {
  document.body.classList.toggle("busy", busy);
  byId("status").textContent = text;
}

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) load(file, file.name);
  event.target.value = ""; // allows choosing the same file again
});

byId("intake").addEventListener("submit", (event) => event.preventDefault());
for (const field of fields) field.addEventListener("change", () => image && predict());

byId("examples").addEventListener("click", async (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  for (const field of fields) field.value = chosen.dataset[field.id];
  const response = await fetch(chosen.dataset.url);
  await load(await response.blob(), `Phantom “${chosen.dataset.name}”`);
});

const drop = byId("drop");
// Accept a drop anywhere: a file dropped beside the frame must not replace the page.
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) load(file, file.name);
});
