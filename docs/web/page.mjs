// The page: asks the worker for samples, one after the other, and draws each when it arrives.

const COLUMNS = 4, COUNT = COLUMNS * COLUMNS;
const LARGEST = Number.MAX_SAFE_INTEGER - COUNT; // of the first seed: those of all pictures are exact
const NETWORKS = {
  wasm: { int8: "int8, all steps in one file", float32: "float32", "int8-weights": "float32, weights stored as int8" },
  webgpu: { float32: "float32", float16: "float16", "int8-weights": "float32, weights stored as int8" },
};
const element = (id) => document.getElementById(id);
const context = element("picture").getContext("2d");
const asked = new URLSearchParams(location.search); // ?engine=webgpu&network=float32 selects one
let worker, started = 0, isReady = false;

function draw(values, place, [height, width]) {
  const image = context.createImageData(width, height);
  values.forEach((value, pixel) => {
    const level = Math.round((Math.min(Math.max(value, -1), 1) + 1) * 127.5);
    image.data.set([level, level, level, 255], 4 * pixel);
  });
  context.putImageData(image, (place % COLUMNS) * width, Math.floor(place / COLUMNS) * height);
}

const received = {
  loading: ({ share }) => { element("progress").value = share; },
  ready: ({ model, condition, names, low }) => {
    isReady = true;
    element("model").textContent = model;
    element("name").textContent = condition;
    const chosen = element("condition").value;
    element("condition").replaceChildren(...names.map((name, place) => new Option(name, low + place)));
    if (chosen) element("condition").value = chosen;
    element("sample").disabled = false;
    element("status").textContent = "Ready.";
  },
  agreement: ({ largest, psnr, differing, total }) => {
    element("agreement").textContent =
      `Compared with the same samples from Python: ${differing} of ${total} numbers differ, by at most ` +
      `${largest.toPrecision(3)}${differing ? `; PSNR ${psnr.toFixed(1)} dB.` : "."}`;
    Object.assign(element("agreement").dataset, { largest, psnr, differing });
  },
  step: ({ place, done, total }) => { element("progress").value = (place + done / total) / COUNT; },
  picture: ({ values, place, shape }) => draw(values, place, shape.slice(-2)),
  sample: ({ values, place, shape }) => {
    draw(values, place, shape.slice(-2));
    element("progress").value = (place + 1) / COUNT;
    element("status").textContent = `${place + 1} of ${COUNT}.`;
    if (place + 1 < COUNT) return;
    const seconds = (performance.now() - started) / 1000;
    element("status").textContent = `${COUNT} samples in ${seconds.toFixed(1)} s.`;
    element("sample").disabled = false;
  },
  failed: ({ message }) => {
    element("status").textContent = message;
    element("sample").disabled = !isReady; // a failed run can be repeated, a network that is missing cannot
  },
};

// A worker for the selected engine and network. The former one, with its memory, is gone.
function load() {
  worker?.terminate();
  isReady = false;
  element("sample").disabled = true;
  element("agreement").textContent = "";
  element("progress").value = 0;
  element("status").textContent = "The network is loading.";
  worker = new Worker("worker.mjs", { type: "module" });
  worker.onmessage = ({ data }) => received[data.kind](data);
  worker.onerror = () => { element("status").textContent = "The worker cannot be loaded: a file of the page is missing."; };
  worker.postMessage({ engine: element("engine").value, network: element("network").value });
}

// The networks that run on the selected engine. A GPU may lack float16.
async function choose(wanted) {
  const engine = element("engine").value;
  const adapter = engine === "webgpu" ? await navigator.gpu?.requestAdapter() : null;
  const names = Object.entries(NETWORKS[engine]).filter(([name]) => name !== "float16" || adapter?.features.has("shader-f16"));
  element("network").replaceChildren(...names.map(([name, text]) => new Option(text, name)));
  if (names.some(([name]) => name === wanted)) element("network").value = wanted;
  load();
}

element("sample").onclick = () => {
  const text = element("seed").value.trim();
  if (!/^\d+$/.test(text) || Number(text) > LARGEST) {
    element("status").textContent = `The seed is a whole number from 0 to ${LARGEST}.`;
    return;
  }
  element("sample").disabled = true;
  element("status").textContent = "Sampling.";
  element("progress").value = 0;
  started = performance.now();
  const [seed, value] = [Number(text), Number(element("condition").value)];
  worker.postMessage({ seed, value, count: COUNT, previews: element("previews").checked });
};
element("engine").onchange = () => choose(element("network").value);
element("network").onchange = load;
if (asked.get("engine") in NETWORKS) element("engine").value = asked.get("engine");
choose(asked.get("network"));
