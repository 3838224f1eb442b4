// The page: asks the worker for samples, one after the other, and draws each when it comes.

const COLUMNS = 4, COUNT = COLUMNS * COLUMNS;
const element = (id) => document.getElementById(id);
const context = element("picture").getContext("2d");
const worker = new Worker("worker.mjs", { type: "module" });
let started = 0;

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
  ready: ({ labels }) => {
    element("class").replaceChildren(...labels.map((label, number) => new Option(label, number)));
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
  failed: ({ message }) => { element("status").textContent = message; },
};
worker.onmessage = ({ data }) => heard[data.kind](data);

element("sample").onclick = () => {
  element("sample").disabled = true;
  element("status").textContent = "Sampling.";
  element("progress").value = 0;
  started = performance.now();
  const [seed, label] = [Number(element("seed").value), Number(element("class").value)];
  worker.postMessage({ seed, label, count: COUNT });
};
