// Samples of a baked file in Node, as raw float32 or int64 tokens: node sample.mjs FILE OUTPUT NAME=VALUE... SEED...
// Whether a baked file is whole, and computes here what it computed where it was baked: node sample.mjs --check FILE
//
// Needs noise.mjs in its folder, and `npm install --ignore-scripts onnxruntime-node`. NAME=VALUE is one of:
//   class=3         the number of a condition or its label, which fills it for all samples
//   text=@text.f32  the numbers of a condition, raw and in its type: one value for all samples, or one for each
//   frames=97       a free size; else it is that of the test vector
// No token is known. The batch is the number of seeds.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { normal, uniforms } from "./noise.mjs";

const LEAST = { float32: 70, float16: 40, bfloat16: 30, int8: 30, "int8-weights": 30, "int4-weights": 30 }; // in dB
const LEAST_SAME = 0.5; // of the tokens
const [file, output, ...rest] = process.argv.slice(2);
const checks = file === "--check" && output;
const seeds = rest.filter((each) => /^\d+$/.test(each));
const pairs = rest.filter((each) => /^[^=]+=[^=]*[^=\s][^=]*$/.test(each));
const unknown = rest.find((each) => !seeds.includes(each) && !pairs.includes(each));
if (unknown !== undefined && !checks) refuse(`${unknown} is neither a seed, a whole number from 0 on, nor NAME=VALUE`);
if (!seeds.length && !checks) {
  console.error("usage: node sample.mjs FILE OUTPUT NAME=VALUE... SEED...\n       node sample.mjs --check FILE");
  process.exit(2);
}
const wrong = seeds.find((each) => !Number.isSafeInteger(+each)); // a number would round it to another seed
if (wrong !== undefined) refuse(`the seed ${wrong} is larger than ${Number.MAX_SAFE_INTEGER}`);
const conditions = Object.fromEntries(pairs.map((each) => each.split("=")));
const twice = Object.keys(conditions).find((name) => pairs.filter((each) => each.startsWith(`${name}=`)).length > 1);
if (twice !== undefined) refuse(`${twice} is given twice`);

function refuse(what) {
  console.error(`sample.mjs: ${what}`);
  process.exit(2);
}

// What goes wrong is one line.
process.on("uncaughtException", (error) => {
  console.error(`${checks ? output : file}: ${error.message.split("\n")[0]}`);
  process.exit(1);
});
const require = createRequire(join(process.cwd(), "package.json")); // the packages of the folder it is started in
const { InferenceSession, Tensor } = require("onnxruntime-node");
const product = (shape) => shape.reduce((all, each) => all * each, 1);

const NUMBERS = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array,
  bool: Uint8Array, // as onnxruntime-node takes it
};

const isNumber = (text) => /^\d+$/.test(text);
const termsOf = (size) => `${size}`.split("/")[0].split("*"); // of "height*width/64"

// The length of an axis, a number or a term of sizes such as "height/8".
function lengthOf(size, sizes) {
  const length = termsOf(size).reduce((all, term) => all * (isNumber(term) ? +term : sizes[term]), 1);
  return length / +(`${size}`.split("/")[1] ?? 1);
}

// The names of the free sizes of a file.
function freeSizes(about) {
  const terms = about.inputs.flatMap((port) => port.shape.flatMap(termsOf));
  return [...new Set(terms)].filter((term) => !isNumber(term) && term !== "batch");
}

// The sizes of a call: those that are given, and else those of the test vector.
function sizesOf(about, given) {
  const sizes = { ...about.sample?.sizes, ...given };
  for (const name of freeSizes(about)) {
    if (!(name in sizes)) throw new Error(`it takes the size ${name}: give ${name}=NUMBER`);
    const { low = 1, high = Infinity, multiple = 1 } = (about.sizes ?? []).find((each) => each.name === name) ?? {};
    if (!isNumber(sizes[name]) || +sizes[name] < low || +sizes[name] > high || +sizes[name] % multiple)
      throw new Error(`${name}=${sizes[name]} is not ${low} to ${high} in steps of ${multiple}`);
    sizes[name] = +sizes[name];
  }
  return sizes;
}

// The numbers of a raw file for an input of a shape: one value for each sample, or one for all of them.
function numbersOf(port, about, path, shape, samples) {
  const bytes = readFileSync(path), Numbers = NUMBERS[port.dtype], [, ...own] = shape;
  const one = product(own) * Numbers.BYTES_PER_ELEMENT;
  if (bytes.length !== one && bytes.length !== one * samples) {
    const needed = samples > 1 ? `${one} or ${samples} times that` : one;
    const type = `${port.dtype} [${own.join(", ")}]`;
    throw new Error(`${port.name} is ${type}, ${needed} bytes, but ${path} has ${bytes.length}`);
  }
  const whole = bytes.length === one ? Buffer.concat(Array(samples).fill(bytes)) : bytes;
  const data = new Numbers(whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length)); // aligned
  const limits = about.conditions.find(({ name }) => name === port.name) ?? {};
  const isBool = port.dtype === "bool";
  const isLegal = (value) => isFinite(value) && (isWithin(limits, value) || value === limits.null) && !(isBool && value > 1);
  const wrong = data.find((value) => !isLegal(Number(value)));
  const legal = limitsOf(about, port.name);
  if (wrong !== undefined) throw new Error(`${path}: ${wrong} is not ${legal ? `in${legal}` : isBool ? "0 or 1" : "finite"}`);
  return data;
}

// What the file reads at an input, for samples of seeds. `sizes` are of the free axes; `fills` are the numbers of which
// inputs are full that no seed gives, or the files that have them.
function inputOf(port, about, seeds, sizes, fills) {
  const shape = port.shape.map((size) => lengthOf(size, { ...sizes, batch: seeds.length }));
  const size = product(shape), Numbers = NUMBERS[port.dtype];
  if (shape[port.name === "draws" ? 1 : 0] !== seeds.length && ["noise", "draws", "ids"].includes(port.name))
    throw new Error(`it samples ${shape[0]} at once, and ${seeds.length} seeds are given`);
  if (!Numbers) throw new Error(`${port.name} is ${port.dtype}, which this program does not make`);
  const data = new Numbers(size), numbers = port.meaning === "noise" ? [0] : about.draws;
  if (port.name === "noise" || port.name === "draws") {
    const own = size / seeds.length / numbers.length, random = port.meaning === "chances" ? uniforms : normal;
    numbers.forEach((draw, k) => seeds.forEach((seed, row) => data.set(random(seed, draw, own), (k * seeds.length + row) * own)));
  } else if (!(port.name in fills)) throw new Error(`it takes ${port.name}: give ${port.name}=VALUE`);
  else if (`${fills[port.name]}`.startsWith("@"))
    return new Tensor(port.dtype, numbersOf(port, about, fills[port.name].slice(1), shape, seeds.length), shape);
  else if (!isFinite(fills[port.name]))
    throw new Error(`${port.name} is ${port.dtype}, and not ${fills[port.name]}`);
  else if (port.dtype === "bool") data.fill(Number(fills[port.name] != 0)); // earlier test vectors have 0.5
  else data.fill(port.dtype === "int64" ? BigInt(fills[port.name]) : Number(fills[port.name]));
  return new Tensor(port.dtype, data, shape);
}

async function run(file, about, seeds, sizes, fills) {
  const session = await InferenceSession.create(file, { intraOpNumThreads: 1 });
  const feeds = Object.fromEntries(about.inputs.map((port) => [port.name, inputOf(port, about, seeds, sizes, fills)]));
  const started = performance.now(), { data } = (await session.run(feeds))[about.output.name];
  return [data, performance.now() - started];
}

const isWithin = ({ low, high }, value) => value >= (low ?? -Infinity) && value <= (high ?? Infinity);

// The legal values of an input that is a condition, as text; "" without labels and limits.
function limitsOf(about, name) {
  const each = about.conditions.find((each) => each.name === name) ?? {}, { low = null, high = null, labels = [] } = each;
  const none = (each.null ?? null) === null || isWithin(each, each.null) ? "" : `, or ${each.null} for none`;
  const named = labels.map((label, number) => `${number} ${label}`);
  if (named.length > 20) named.splice(5, named.length - 6, "...");
  if (named.length) return ` ${named.join(", ")}${none}`;
  return low === null && high === null ? "" : ` ${low ?? "-infinity"} to ${high ?? "infinity"}${none}`;
}

// The number of a condition's value, which may be a label. Those of a bool are false and true.
function numberOf({ labels = [] }, value, dtype) {
  const named = !labels.length && dtype === "bool" ? ["false", "true"] : labels;
  const place = named.findIndex((label) => label.toLowerCase() === value.toLowerCase());
  return place < 0 ? value : `${place}`;
}

async function sample() {
  const [about] = described(readFileSync(file)), names = about.inputs.map((port) => port.name);
  const prompt = about.inputs.find((port) => port.meaning === "ids"); // of a text, not the known tokens of a sample
  if (prompt)
    throw new Error(`it takes the token ids of a prompt, ${prompt.name} [${prompt.shape.join(", ")}], which this program does not make: see docs/bake.md`);
  const given = names.filter((name) => !["noise", "draws", "ids"].includes(name));
  const free = freeSizes(about).filter((name) => !given.includes(name)), sizes = {};
  const listed = [...given.map((name) => name + limitsOf(about, name)), ...free.map((name) => `the size ${name}`)];
  for (const name in conditions) {
    if (free.includes(name)) sizes[name] = conditions[name];
    else if (!given.includes(name)) throw new Error(`it takes no ${name}: it takes ${listed.join(", ") || "only seeds"}`);
  }
  const written = about.conditions.filter(({ name }) => !(conditions[name] ?? "@").startsWith("@"));
  for (const each of written) {
    const { name } = each, { dtype } = about.inputs.find((port) => port.name === name);
    const value = (conditions[name] = numberOf(each, conditions[name], dtype));
    if (!isWithin(each, value) && Number(value) !== each.null && limitsOf(about, name))
      throw new Error(`${name}=${value} is not in${limitsOf(about, name)}`);
    if (dtype === "bool" && !/^[01]$/.test(value)) throw new Error(`${name} is bool: give 0 or 1, and not ${value}`);
    if (!dtype.startsWith("float") && !/^-?\d+$/.test(value)) throw new Error(`${name} is ${dtype}, and not ${value}`);
  }
  const [data, taken] = await run(file, about, seeds.map(Number), sizesOf(about, sizes), { ...conditions, ids: -1 });
  writeFileSync(output, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  console.log(`${seeds.length} ${seeds.length === 1 ? "sample" : "samples"} in ${Math.round(taken)} ms`);
}

// What the file says of itself, and where its checksum stands. onnxruntime-node shows no metadata, so it is found by
// its first bytes; its length is the varint of protobuf in front of them.
function described(bytes) {
  const start = bytes.indexOf('{"file_sha256":"');
  if (start < 0) throw new Error("it has no checksum, or is cut: copy it again, or bake it again");
  let first = start - 1;
  while (bytes[first - 1] & 0x80) first--;
  const length = bytes.subarray(first, start).reduce((all, byte, place) => all + (byte & 0x7f) * 2 ** (7 * place), 0);
  return [JSON.parse(bytes.subarray(start, start + length)), start + 16];
}

async function check(file) {
  const bytes = readFileSync(file), [about, digits] = described(bytes);
  const hash = createHash("sha256").update(bytes.subarray(0, digits)).update("0".repeat(64));
  if (hash.update(bytes.subarray(digits + 64)).digest("hex") !== about.file_sha256) throw new Error("its checksum differs");
  if (!about.sample) return "whole; it has no test vector";
  const { seed, sizes, inputs, values } = about.sample;
  const seeds = Array.from({ length: sizes.batch }, (_, row) => seed + row);
  const data = Float32Array.from((await run(file, about, seeds, sizes, inputs))[0], Number); // ids too
  const digest = createHash("sha256").update(Buffer.from(data.buffer)).digest("hex");
  if (digest === about.sample.sha256) return "whole, and its sample is bitwise that of where it was baked";
  const errors = values.map((value, k) => (data[Math.floor((k * data.length) / values.length)] - value) ** 2);
  if (about.vocabulary) {
    const same = errors.filter((each) => each === 0).length / errors.length;
    if (same < LEAST_SAME) throw new Error(`it computes another sample here: ${100 * same}% of the tokens are the same`);
    return `whole, and ${100 * same}% of its tokens are those of where it was baked: kernels round otherwise here`;
  }
  const psnr = 10 * Math.log10((4 * values.length) / errors.reduce((all, each) => all + each, 0));
  if (!(psnr >= LEAST[about.precision])) throw new Error(`it computes another sample here: ${psnr.toFixed(1)} dB`);
  return `whole, and its sample is ${psnr.toFixed(1)} dB from that of where it was baked: kernels round otherwise here`;
}

if (checks) console.log(`${output}: ${await check(output)}`);
else await sample();
