// Samples of a baked file in Node, written as raw float32: node sample.mjs FILE OUTPUT CLASS SEED...
//
// Needs `npm install onnxruntime-node`. The file's metadata is not shown by this package, so the shape is read from
// the session's inputs and the batch is the number of seeds.

import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { normal } from "../../docs/web/noise.mjs";

const [file, output, label, ...seeds] = process.argv.slice(2);
if (!seeds.length) {
  console.error("usage: node sample.mjs FILE OUTPUT CLASS SEED...");
  process.exit(2);
}

const require = createRequire(join(process.cwd(), "package.json")); // the packages of the folder it is started in
const { InferenceSession, Tensor } = require("onnxruntime-node");

const session = await InferenceSession.create(file, { intraOpNumThreads: 1 });
const shape = session.inputMetadata.find((each) => each.name === "noise").shape.slice(1);
const size = shape.reduce((all, each) => all * each, 1);

const noise = new Float32Array(seeds.length * size);
seeds.forEach((seed, place) => noise.set(normal(Number(seed), 0, size), place * size));
const labels = BigInt64Array.from(seeds, () => BigInt(label));

const started = performance.now();
const { sample } = await session.run({
  noise: new Tensor("float32", noise, [seeds.length, ...shape]),
  class: new Tensor("int64", labels, [seeds.length]),
});
writeFileSync(output, Buffer.from(sample.data.buffer, sample.data.byteOffset, sample.data.byteLength));
console.log(`${seeds.length} samples in ${Math.round(performance.now() - started)} ms`);
