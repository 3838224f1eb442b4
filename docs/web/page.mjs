// The page: asks the worker for samples, one after the other, and draws each when it comes.

const COLUMNS = 4, COUNT = COLUMNS * COLUMNS;
const LARGEST = Number.MAX_SAFE_INTEGER - COUNT; // of the first seed: those of all pictures are exact
const element = (id) => document.getElementById(id);
const context = element("picture").getContext("2d");
const worker = new Worker("worker.mjs", { type: "module" });
let started = 0, ready = false;

function draw(values, place, [height, width]) {
  const image = context.createImageData(width, height);
  values.forEach((value, pixel) => {
    const level = Math.round((Math.min(Math.max(value, -1), 1) + 1) * 127.5);
    image.data.set([level, level, level, 255], 4 * pixel);
  });
  context.putImageData(image, (place % COLUMNS) * width, Math.floor(place / COLUMNS) * height);
}

const heard = {
  loading: ({ share }) => { element("progress").value = share; },
  ready: ({ condition, names, low }) => {
    ready = true;
    element("name").textContent = condition;
    element("condition").replaceChildren(...names.map((name, place) => new Option(name, low + place)));
    element("sample").disabled = false;
    element("status").textContent = "Ready.";
  },
  agreement: ({ largest, psnr, differing, total }) => {
    element("agreement").textContent =
      `Beside the same samples from Python: ${differing} of ${total} numbers differ, by at most ${largest.toPrecision(3)}` +
      (differing ? `; PSNR ${psnr.toFixed(1)} dB.` : ".");
    Object.assign(element("agreement").dataset, { largest, psnr, differing });
  },
  sample: ({ values, place, shape }) => {
    draw(values, place, shape.slice(-2));
    element("progress").value = (place + 1) / COUNT;
    if (place + 1 < COUNT) return;
    const seconds = (performance.now() - started) / 1000;
    element("status").textContent = `${COUNT} samples in ${seconds.toFixed(1)} s.`;
    element("sample").disabled = false;
  },
  failed: ({ message }) => {
    element("status").textContent = message;
    element("sample").disabled = !ready; // a failed run may be asked for again, a model that is not there may not
  },
};
worker.onmessage = ({ data }) => heard[data.kind](data);
// A worker whose imports are missing never runs, and its error names no file.
worker.onerror = () => {
  element("status").textContent =
    "The worker cannot be loaded: the folder ort/ with onnxruntime-web is missing, or not whole. " +
    "examples/baked/web.py makes it.";
};

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
  worker.postMessage({ seed, value, count: COUNT });
};
