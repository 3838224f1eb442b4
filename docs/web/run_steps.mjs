// Runs the folder of `fewstep bake --parts` step by step, on WebGPU or on the CPU. On WebGPU the state stays on the GPU,
// and a step with an operation that WebGPU lacks is refused when it is loaded, instead of running partly on the CPU.

const Numbers = { float32: Float32Array, int64: BigInt64Array, float64: Float64Array, int32: Int32Array, bool: Uint8Array };
const product = (shape) => shape.reduce((all, size) => all * size, 1);
const REFUSED = "disable_cpu_ep_fallback"; // onnxruntime's setting: an operation without a kernel is an error

// A tensor on the CPU. values: numbers, of any type.
function tensor(ort, dtype, values, shape) {
  const convert = dtype === "int64" ? BigInt : Number;
  return new ort.Tensor(dtype, Numbers[dtype].from(values, convert), shape);
}

// A copy of a float32 or int64 tensor in a buffer of the GPU.
function upload(ort, device, { type, data, dims }) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({ size: Math.max(16, Math.ceil(data.byteLength / 4) * 4), usage });
  device.queue.writeBuffer(buffer, 0, data);
  return ort.Tensor.fromGpuBuffer(buffer, { dataType: type, dims, dispose: () => buffer.destroy() });
}

// Throws if a file is not the one that run.json describes. A page that came by plain http has no crypto.subtle; a folder
// of an older fewstep has no hashes. Neither is checked.
async function check(bytes, name, expected) {
  if (!expected || !globalThis.crypto?.subtle) return;
  const hash = [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))];
  if (hash.map((byte) => byte.toString(16).padStart(2, "0")).join("") !== expected)
    throw new Error(`${name} is not the file that run.json describes: load the page again, or copy the whole folder again`);
}

// Opens a folder. provider: "webgpu" or "wasm". read: returns the bytes of a file. Returns {about, sample}.
export async function open(ort, folder, provider, read) {
  const about = JSON.parse(new TextDecoder().decode(await read(`${folder}/run.json`)));
  const isOnGpu = provider === "webgpu";
  const onDevice = isOnGpu ? { preferredOutputLocation: "gpu-buffer", extra: { session: { [REFUSED]: "1" } } } : {};
  const create = async (file, options) => {
    const bytes = await read(`${folder}/${file}`);
    await check(bytes, `${folder}/${file}`, about.sha256?.[file]);
    return ort.InferenceSession.create(bytes, options).catch((error) => {
      const isLacking = `${error.message}`.includes("fallback to CPU EP");
      throw isLacking ? new Error(`${folder}/${file} has an operation that WebGPU lacks: choose WebAssembly`) : error;
    });
  };
  const kinds = [];
  for (const kind of about.steps)
    kinds.push({ ...kind, session: await create(kind.file, { executionProviders: [provider], ...onDevice }) });
  const before = await create(about.before, { executionProviders: ["wasm"] });
  const after = await create(about.after, { executionProviders: [provider] });
  const device = isOnGpu ? await ort.env.webgpu.device : null;
  const total = kinds.reduce((all, kind) => all + kind.rows.length, 0);

  // The output of what runs after the steps, for a state by the names that it has there. The state stays.
  async function finish(state) {
    const output = about.holds.output.name;
    const result = (await after.run(Object.fromEntries(after.inputNames.map((name) => [name, state[name]]))))[output];
    const data = await result.getData();
    result.dispose();
    return data;
  }

  // Computes `batch` samples. inputs: arrays by the names of the run's inputs. onStep(done, total, preview) is called after
  // each step; `await preview()` is the sample of the state so far. Returns the samples' numbers.
  async function sample(inputs, onStep = () => {}) {
    const ports = about.holds.inputs.map((port) => ({ ...port, shape: port.shape.map((size) => (size === "batch" ? about.batch : size)) }));
    const feeds = Object.fromEntries(ports.map(({ name, dtype, shape }) => [name, tensor(ort, dtype, inputs[name], shape)]));
    const made = await before.run(Object.fromEntries(before.inputNames.map((name) => [name, feeds[name]])));
    const values = { ...feeds, ...made };
    let done = 0, start = values;
    const place = (value) => (isOnGpu ? upload(ort, device, value) : value);
    for (const { session, state, shared, row_inputs, rows } of kinds) {
      const fixed = Object.fromEntries(shared.map((name) => [name, place(values[name])]));
      let current = Object.fromEntries(state.map((row) => [row.input, start[row.start]]));
      for (const row of rows) {
        const numbers = row_inputs.map(({ name, dtype, shape }, at) => [name, tensor(ort, dtype, row[at], shape)]);
        const outputs = await session.run({ ...fixed, ...current, ...Object.fromEntries(numbers) });
        for (const old of new Set(Object.values(current))) if (old.location === "gpu-buffer") old.dispose();
        current = Object.fromEntries(state.map((row) => [row.input, outputs[row.output]]));
        done += 1;
        await onStep(done, total, () => finish({ ...values, ...Object.fromEntries(state.map((row) => [row.end, current[row.input]])) }));
      }
      start = { ...values, ...Object.fromEntries(state.map((row) => [row.end, current[row.input]])) };
      if (isOnGpu) for (const each of Object.values(fixed)) each.dispose();
    }
    const samples = await finish(start);
    for (const { end } of kinds.at(-1).state) if (start[end].location === "gpu-buffer") start[end].dispose();
    return samples;
  }

  return { about, total, sample };
}
