// The worker: loads one network on one engine, compares samples with Python's, then samples on demand.
//
// The first message is {engine, network}: engine "wasm" or "webgpu"; network a folder of `fewstep bake --parts`, or
// "int8", the baked file sampler.onnx, which runs on the CPU. Each later message is {seed, value, count, previews}.

import { normal } from "./noise.mjs";
import { open } from "./run_steps.mjs";

const WHOLE = "int8"; // the network that is one file with all steps
let ort, about, run; // run(seed, value, onStep) returns the numbers of a sample

// The bytes of a file. Posts the share of it that has arrived.
async function read(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing: ${response.status}`);
  const total = Number(response.headers.get("Content-Length")) || 0;
  const reader = response.body.getReader(), blocks = [];
  for (let received = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    blocks.push(value);
    received += value.length;
    if (total) postMessage({ kind: "loading", name, share: received / total });
  }
  return new Uint8Array(await new Blob(blocks).arrayBuffer());
}

async function openWhole() {
  const session = await ort.InferenceSession.create(await read("sampler.onnx"), { executionProviders: ["wasm"] });
  const size = about.shape.reduce((all, each) => all * each, 1);
  return async (seed, value) => {
    const { sample } = await session.run({
      noise: new ort.Tensor("float32", normal(seed, 0, size), [1, ...about.shape]),
      [about.condition]: new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), [1]),
    });
    return sample.data;
  };
}

async function openSteps(network, engine) {
  const { about: parts, sample } = await open(ort, network, engine, read);
  const { draws, inputs } = parts.holds, size = about.shape.reduce((all, each) => all * each, 1);
  const random = (seed, numbers) => numbers.flatMap((draw) => [...normal(seed, draw, size)]);
  return (seed, value, onStep) => {
    const given = { noise: random(seed, [0]), draws: random(seed, draws), condition: [value] };
    return sample(Object.fromEntries(inputs.map(({ name, meaning }) => [name, given[meaning]])), onStep);
  };
}

// Compares with Python's samples of the same seeds and conditions. PSNR has peak 2, the width of the model range.
async function agreement(count, samples) {
  let largest = 0, squares = 0, differing = 0, total = 0;
  for (let place = 0; place < count; place++) {
    const ours = await run(about.seeds[place], about.values[place], () => {});
    samples[place].forEach((theirs, number) => {
      const difference = Math.abs(Math.fround(theirs) - ours[number]);
      largest = Math.max(largest, difference);
      squares += difference ** 2;
      differing += difference > 0;
      total += 1;
    });
  }
  const psnr = 10 * Math.log10((4 * total) / squares);
  postMessage({ kind: "agreement", largest, psnr, differing, total });
}

async function load({ engine, network, compare = true }) {
  if (engine === "webgpu" && !(await navigator.gpu?.requestAdapter()))
    throw new Error("this browser has no WebGPU: choose WebAssembly");
  ort = await import(engine === "webgpu" ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs").catch(() => {
    throw new Error("the folder ort/ with onnxruntime-web is missing or incomplete: examples/baked/web.py makes it");
  });
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? 0 : 1; // threads share memory, which a page must be allowed
  about = JSON.parse(new TextDecoder().decode(await read("expected.json")));
  run = await (network === WHOLE ? openWhole() : openSteps(network, engine));
  if (compare) await agreement(network === WHOLE ? about.seeds.length : 1, about.samples[network]);
  postMessage({ kind: "ready", model: about.model, condition: about.condition, names: about.names, low: about.low });
}

async function sample({ seed, value, count, previews }) {
  for (let place = 0; place < count; place++) {
    const values = await run(seed + place, value, async (done, total, preview) => {
      postMessage({ kind: "step", place, done, total });
      if (previews && done < total) postMessage({ kind: "picture", place, shape: about.shape, values: await preview() });
    });
    postMessage({ kind: "sample", place, shape: about.shape, values });
  }
}

// One message after the other: WebGPU has one queue, and a session of onnxruntime one run at a time.
let last = Promise.resolve();
onmessage = ({ data }) => {
  last = last
    .then(() => ("engine" in data ? load(data) : sample(data)))
    .catch((error) => postMessage({ kind: "failed", message: `${error.message}`.split("\n")[0] }));
};
