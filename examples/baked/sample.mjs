// Samples of a baked file in Node, written as raw float32: node sample.mjs FILE OUTPUT CLASS SEED...
// Whether a baked file is whole, and computes here what it computed where it was baked: node sample.mjs --check FILE
//
// Needs noise.mjs beside it, and `npm install --ignore-scripts onnxruntime-node`. The first form is for a file with a
// condition `class` and without `draws`. The batch is the number of seeds.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { normal } from "./noise.mjs";

const LEAST = { float32: 70, float16: 40, int8: 30 }; // dB: other kernels round to more
const [file, output, label, ...seeds] = process.argv.slice(2);
const checks = file === "--check" && output;
if (!seeds.length && !checks) {
  console.error("usage: node sample.mjs FILE OUTPUT CLASS SEED...\n       node sample.mjs --check FILE");
  process.exit(2);
}

const require = createRequire(join(process.cwd(), "package.json")); // the packages of the folder it is started in
const { InferenceSession, Tensor } = require("onnxruntime-node");
const product = (shape) => shape.reduce((all, each) => all * each, 1);

function noiseOf(seeds, draw, shape) {
  const size = product(shape), noise = new Float32Array(seeds.length * size);
  seeds.forEach((seed, place) => noise.set(normal(Number(seed), draw, size), place * size));
  return noise;
}

async function sample() {
  const session = await InferenceSession.create(file, { intraOpNumThreads: 1 });
  const shape = session.inputMetadata.find((each) => each.name === "noise").shape.slice(1);
  const noise = noiseOf(seeds, 0, shape), labels = BigInt64Array.from(seeds, () => BigInt(label));
  const started = performance.now();
  const { sample } = await session.run({
    noise: new Tensor("float32", noise, [seeds.length, ...shape]),
    class: new Tensor("int64", labels, [seeds.length]),
  });
  writeFileSync(output, Buffer.from(sample.data.buffer, sample.data.byteOffset, sample.data.byteLength));
  console.log(`${seeds.length} samples in ${Math.round(performance.now() - started)} ms`);
}

// What the file says of itself, and where its checksum stands. onnxruntime-node shows no metadata, so it is found by
// its first bytes; its length is the varint of protobuf in front of them.
function described(bytes) {
  const start = bytes.indexOf('{"file_sha256":"');
  if (start < 0) throw new Error("it has no checksum: bake it again to have one");
  let first = start - 1;
  while (bytes[first - 1] & 0x80) first--;
  const length = bytes.subarray(first, start).reduce((all, byte, place) => all + (byte & 0x7f) * 2 ** (7 * place), 0);
  return [JSON.parse(bytes.subarray(start, start + length)), start + 16];
}

function inputOf(port, about) {
  const { seed, sizes, inputs } = about.sample;
  const shape = port.shape.map((size) => sizes[size] ?? size); // "height/8" is left out here
  if (port.meaning === "noise" || port.meaning === "draws") {
    const draws = port.meaning === "noise" ? [0] : about.draws;
    const own = shape.slice(port.meaning === "noise" ? 1 : 2);
    const seeds = Array.from({ length: sizes.batch }, (_, row) => seed + row);
    return new Tensor("float32", Float32Array.from(draws.flatMap((draw) => [...noiseOf(seeds, draw, own)])), shape);
  }
  const size = product(shape), fill = inputs[port.name];
  const data = port.dtype === "int64" ? new BigInt64Array(size).fill(BigInt(fill)) : new Float32Array(size).fill(fill);
  return new Tensor(port.dtype, data, shape);
}

async function check(file) {
  const bytes = readFileSync(file), [about, digits] = described(bytes);
  const hash = createHash("sha256").update(bytes.subarray(0, digits)).update("0".repeat(64));
  if (hash.update(bytes.subarray(digits + 64)).digest("hex") !== about.file_sha256) throw new Error("its checksum differs");
  if (!about.sample) return "whole; it has no test vector";
  const session = await InferenceSession.create(file, { intraOpNumThreads: 1 });
  const feeds = Object.fromEntries(about.inputs.map((port) => [port.name, inputOf(port, about)]));
  const { data } = (await session.run(feeds))[about.output.name];
  const digest = createHash("sha256").update(Buffer.from(data.buffer, data.byteOffset, data.byteLength)).digest("hex");
  if (digest === about.sample.sha256) return "whole, and its sample is bitwise that of where it was baked";
  const { values } = about.sample;
  const errors = values.map((value, k) => (data[Math.floor((k * data.length) / values.length)] - value) ** 2);
  const psnr = 10 * Math.log10((4 * values.length) / errors.reduce((all, each) => all + each, 0));
  if (!(psnr >= LEAST[about.precision])) throw new Error(`it computes another sample here: ${psnr.toFixed(1)} dB`);
  return `whole, and its sample is ${psnr.toFixed(1)} dB from that of where it was baked: kernels round otherwise here`;
}

if (!checks) await sample();
else
  await check(output).then(
    (verdict) => console.log(`${output}: ${verdict}`),
    (error) => { console.error(`${output}: ${error.message}`); process.exitCode = 1; },
  );
