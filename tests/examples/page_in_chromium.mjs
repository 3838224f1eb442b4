// Open the page of docs/web in headless Chromium, sample once, and print what it says as JSON.
//
// node page_in_chromium.mjs ADDRESS CHROMIUM SCREENSHOT, started in a folder that has the npm package playwright-core.

import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.cwd(), "package.json"))("playwright-core");
const [address, executablePath, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 700, height: 900 } });
const errors = [];
page.on("pageerror", (error) => errors.push(error.message));
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
await page.goto(address);
await page.waitForSelector("#sample:enabled", { timeout: 300000 });
await page.selectOption("#condition", "7");
await page.click("#sample");
await page.waitForFunction(() => document.getElementById("status").textContent.includes("samples in"), null, { timeout: 300000 });
await page.screenshot({ path: screenshot });
const said = await page.evaluate(() => ({
  agreement: document.getElementById("agreement").textContent,
  status: document.getElementById("status").textContent,
  ...document.getElementById("agreement").dataset,
}));
console.log(JSON.stringify({ ...said, errors, browser: browser.version() }));
await browser.close();
