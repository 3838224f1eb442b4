// Standard normal noise with the values of fewstep.plans.noise: Philox-4x32-10, then Box-Muller in float64.
//
// Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". The functions sin, cos and log of
// JavaScript may differ from numpy's in the last bit of a float64; rounded to float32 nearly all numbers are equal.

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const WEYL = [0x9e3779b9, 0xbb67ae85];

// The high and the low 32 bits of a product of two 32-bit numbers.
function product(a, b) {
  const low = Math.imul(a, b) >>> 0;
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  const high = a1 * b1 + Math.floor(middle / 65536) + Math.floor(other / 65536);
  return [high >>> 0, low];
}

// Ten rounds over a counter of four 32-bit words, with a key of two.
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = product(c0, MULTIPLIERS[0]);
    const [high1, low1] = product(c2, MULTIPLIERS[1]);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + WEYL[0]) >>> 0;
    k1 = (k1 + WEYL[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

// `count` numbers of a draw of a seed, as Float32Array. seed: a whole number from 0 to 2^53 - 1; draw: to 2^32 - 1.
export function normal(seed, draw, count) {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  const values = new Float32Array(count);
  for (let block = 0; 4 * block < count; block++) {
    const words = philox([block >>> 0, Math.floor(block / 2 ** 32), draw, 0], key);
    const uniform = words.map((word) => (word + 0.5) * 2 ** -32);
    for (const pair of [0, 2]) {
      const radius = Math.sqrt(-2 * Math.log(uniform[pair]));
      const angle = 2 * Math.PI * uniform[pair + 1];
      values[4 * block + pair] = radius * Math.cos(angle);  // past the end nothing is stored
      values[4 * block + pair + 1] = radius * Math.sin(angle);
    }
  }
  return values;
}

// `count` chances in (0, 1) of a draw of a seed, as Float64Array: uniforms of fewstep.plans.noise.
export function uniforms(seed, draw, count) {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  return Float64Array.from({ length: count }, (_, element) => {
    const block = Math.floor(element / 2);
    const words = philox([block >>> 0, Math.floor(block / 2 ** 32), draw, 3], key).slice((element % 2) * 2);
    return (words[0] * 2 ** 20 + (words[1] >>> 12) + 0.5) * 2 ** -52; // the first 52 bits of two words
  });
}
