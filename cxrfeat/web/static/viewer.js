// Zoomable X-ray with a heat map overlay.
import { spell } from "./answer.js";

const byId = (id) => document.getElementById(id);
const WARM = [213, 94, 0];
const COOL = [0, 114, 178];
const STEP = 1.25;
const MAX_ZOOM = 8;
const PLACES = { rows: ["upper", "middle", "lower"], columns: ["left", "centre", "right"] };

export class Viewer {
  #zoom = 1;
  #shape = { width: 1, height: 1 };
  #entry = null;
  #frame = byId("viewer");
  #stage = byId("stage");
  #picture = byId("picture");
  #heat = byId("heat");
  #opacity = byId("opacity");

  constructor() {
    byId("zoom-in").addEventListener("click", () => this.#scale(this.#zoom * STEP));
    byId("zoom-out").addEventListener("click", () => this.#scale(this.#zoom / STEP));
    byId("zoom-fit").addEventListener("click", () => this.#scale(1));
    this.#opacity.addEventListener("input", () => this.#overlay());
    this.#frame.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    this.#frame.addEventListener("keydown", (event) => this.#onKey(event));
    this.#frame.addEventListener("pointerdown", (event) => this.#onDrag(event));
    new ResizeObserver(() => this.#scale(this.#zoom)).observe(byId("drop"));
  }

  async open(address, name) {
    this.#picture.src = address;
    try {
      await this.#picture.decode();
    } catch {
      return; // the server reports the error
    }
    this.#picture.alt = `Chest X-ray: ${name}`;
    byId("invitation").hidden = true;
    this.#frame.hidden = byId("tools").hidden = false;
    this.fit({ width: this.#picture.naturalWidth, height: this.#picture.naturalHeight });
  }

  // Show the whole image in the shape that the server decoded.
  fit({ width, height, region = [0, 0, 1, 1] }) {
    this.#shape = { width, height };
    const [left, top, right, bottom] = region.map((share) => share * 100);
    Object.assign(this.#heat.style, {
      left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
    });
    this.#scale(1);
  }

  close() {
    byId("invitation").hidden = false;
    this.#frame.hidden = byId("tools").hidden = byId("legend").hidden = true;
    this.explain(null);
  }

  // Draw the heat map of a finding, or remove it for null.
  explain(entry) {
    this.#entry = entry?.heat_map ? entry : null; // some backbones have no feature map
    if (this.#entry) paint(this.#heat, entry.heat_map);
    this.#overlay();
  }

  #overlay() {
    const opacity = Number(this.#opacity.value);
    const visible = this.#entry !== null && opacity > 0;
    this.#heat.style.opacity = visible ? opacity / 100 : 0;
    byId("opacity-level").textContent = opacity ? `${opacity} %` : "off";
    byId("legend").hidden = !visible;
    if (!visible) return;
    byId("legend-finding").textContent = spell(this.#entry.finding);
    const cells = this.#entry.heat_map;
    byId("legend-place").textContent = describe(cells);
    byId("legend-cells").textContent = `${cells.length} × ${cells[0].length}`;
  }

  // Zoom about a point of the frame, by default its centre.
  #scale(zoom, x = this.#frame.clientWidth / 2, y = this.#frame.clientHeight / 2) {
    if (this.#frame.hidden) return;
    const { width, height } = this.#shape;
    const before = this.#zoom;
    this.#zoom = Math.min(Math.max(zoom, 1), MAX_ZOOM);
    const { width: side } = byId("drop").getBoundingClientRect();
    const fit = side / Math.max(width, height);
    const [left, top] = [this.#frame.scrollLeft, this.#frame.scrollTop];
    const tall = height * fit * this.#zoom;
    this.#stage.style.width = `${width * fit * this.#zoom}px`;
    this.#stage.style.height = `${tall}px`;
    this.#stage.style.marginTop = `${Math.max(0, (side - tall) / 2)}px`;
    this.#frame.style.overflow = this.#zoom === 1 ? "hidden" : "auto"; // no scroll bars when the image fits
    this.#frame.scrollLeft = ((left + x) * this.#zoom) / before - x;
    this.#frame.scrollTop = ((top + y) * this.#zoom) / before - y;
    byId("zoom-level").textContent = `${Math.round(this.#zoom * 100)} %`;
    byId("zoom-out").disabled = byId("zoom-fit").disabled = this.#zoom === 1;
    byId("zoom-in").disabled = this.#zoom === MAX_ZOOM;
  }

  #onWheel(event) {
    if (!event.ctrlKey) return; // plain scrolling moves the page; a pinch gesture sets ctrlKey
    event.preventDefault();
    const { left, top } = this.#frame.getBoundingClientRect();
    this.#scale(this.#zoom * STEP ** -Math.sign(event.deltaY), event.clientX - left, event.clientY - top);
  }

  #onKey(event) {
    const zoom = { "+": this.#zoom * STEP, "=": this.#zoom * STEP, "-": this.#zoom / STEP, 0: 1 }[event.key];
    if (zoom === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#scale(zoom);
  }

  #onDrag(event) {
    if (event.pointerType !== "mouse" || event.button !== 0) return; // touch scrolls natively
    const [x, y] = [event.clientX + this.#frame.scrollLeft, event.clientY + this.#frame.scrollTop];
    const move = (moved) => this.#frame.scrollTo(x - moved.clientX, y - moved.clientY);
    this.#frame.setPointerCapture(event.pointerId);
    this.#frame.addEventListener("pointermove", move);
    this.#frame.addEventListener("lostpointercapture", () => this.#frame.removeEventListener("pointermove", move), { once: true });
  }
}

// Draw cells as a smooth layer: colour is the sign, opacity the magnitude relative to the strongest cell.
function paint(canvas, cells) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const strongest = Math.max(...cells.flat().map(Math.abs)) || 1;
  const rows = interpolate(canvas.height, cells.length);
  const columns = interpolate(canvas.width, cells[0].length);
  let offset = 0;
  for (const [top, bottom, down] of rows) {
    for (const [left, right, across] of columns) {
      const upper = cells[top][left] * (1 - across) + cells[top][right] * across;
      const lower = cells[bottom][left] * (1 - across) + cells[bottom][right] * across;
      const value = (upper * (1 - down) + lower * down) / strongest;
      image.data.set([...(value > 0 ? WARM : COOL), Math.abs(value) * 255], offset);
      offset += 4;
    }
  }
  context.putImageData(image, 0, 0);
}

// Return for each pixel along a side the two cells with the nearest centres, and the weight of the second.
function interpolate(pixels, cells) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const place = Math.min(Math.max(((pixel + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
    const first = Math.floor(place);
    return [first, Math.min(first + 1, cells - 1), place - first];
  });
}

// Describe where the evidence is strongest.
function describe(cells) {
  const flat = cells.flat();
  const strongest = Math.max(...flat);
  if (strongest <= 0) return "No part of this X-ray is evidence for it.";
  const [row, column] = [Math.floor(flat.indexOf(strongest) / cells[0].length), flat.indexOf(strongest) % cells[0].length];
  const third = (index, count) => Math.floor(((index + 0.5) / count) * 3);
  const place = `${PLACES.rows[third(row, cells.length)]} ${PLACES.columns[third(column, cells[0].length)]}`;
  return `The strongest evidence is in the ${place} of the image.`;
}
