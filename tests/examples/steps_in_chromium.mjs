// Draw a sample by the worker of docs/web in headless Chromium, with WebGPU by SwiftShader or by what the flags in
// $WEBGPU_FLAGS select, and print it as JSON.
//
// node steps_in_chromium.mjs ADDRESS CHROMIUM NETWORK SEED VALUE ENGINE..., started in a folder that has the npm package
// playwright-core. Prints for each engine {values, previews, progress} or {failed}.

import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.cwd(), "package.json"))("playwright-core");
const [address, executablePath, network, seed, value, ...engines] = process.argv.slice(2);
const SWIFTSHADER = "--enable-unsafe-webgpu --use-webgpu-adapter=swiftshader --enable-unsafe-swiftshader";
const args = ["--no-sandbox", ...(process.env.WEBGPU_FLAGS ?? SWIFTSHADER).split(/\s+/)];
const browser = await chromium.launch({ executablePath, args });
try {
  const page = await browser.newPage(), found = {};
  await page.goto(`${address}expected.json`); // of the same origin, and without a worker of its own
  for (const engine of engines) {
    const messages = [{ engine, network, compare: false }, { seed: +seed, value: +value, count: 1, previews: true }];
    found[engine] = await page.evaluate((messages) => new Promise((resolve) => {
      const worker = new Worker("worker.mjs", { type: "module" }), seen = { previews: 0, progress: [] };
      worker.onerror = () => resolve({ failed: "the worker cannot be loaded" });
      worker.onmessage = ({ data }) => {
        if (data.kind === "failed") resolve({ failed: data.message });
        if (data.kind === "picture") seen.previews += 1;
        if (data.kind === "step") seen.progress.push(`${data.done} of ${data.total}`);
        if (data.kind === "sample") resolve({ ...seen, values: [...data.values] });
      };
      messages.forEach((message) => worker.postMessage(message));
    }), messages);
  }
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
