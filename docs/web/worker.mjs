// The worker: loads the baked file, compares a few samples with Python's, then samples on demand.

import * as ort from "./ort/ort.wasm.min.mjs";
import { normal } from "./noise.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? 0 : 1; // threads share memory, which a page must be allowed
let session, shape, condition;

// The bytes of a file, with the share that has come.
async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is not here: ${response.status}`);
  const total = Number(response.headers.get("Content-Length")) || 0;
  const reader = response.body.getReader(), blocks = [];
  for (let come = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    blocks.push(value);
    come += value.length;
    if (total) postMessage({ kind: "loading", share: come / total });
  }
  return new Uint8Array(await new Blob(blocks).arrayBuffer());
}

async function sampled(seed, value) {
  const size = shape.reduce((all, each) => all * each, 1);
  const { sample } = await session.run({
    noise: new ort.Tensor("float32", normal(seed, 0, size), [1, ...shape]),
    [condition]: new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), [1]),
  });
  return sample.data;
}

// Python's samples of the same seeds and conditions beside ours. PSNR has peak 2, the width of the model range.
async function agreement({ seeds, values, samples }) {
  let largest = 0, squares = 0, differing = 0, total = 0;
  for (let place = 0; place < seeds.length; place++) {
    const ours = await sampled(seeds[place], values[place]);
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

async function load() {
  const about = JSON.parse(new TextDecoder().decode(await fetched("expected.json")));
  ({ shape, condition } = about);
  session = await ort.InferenceSession.create(await fetched("sampler.onnx"), { executionProviders: ["wasm"] });
  await agreement(about);
  postMessage({ kind: "ready", condition, names: about.names, low: about.low });
}

const loaded = load().catch((error) => postMessage({ kind: "failed", message: `${error.message}` }));

onmessage = async ({ data: { seed, value, count } }) => {
  await loaded;
  try {
    for (let place = 0; place < count; place++)
      postMessage({ kind: "sample", place, shape, values: await sampled(seed + place, value) });
  } catch (error) {
    postMessage({ kind: "failed", message: `${error.message}` });
  }
};
