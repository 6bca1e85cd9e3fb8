// Hounsfield units of the slice in view and its neighbours, and their grey values in any window.
// @ts-check

const BYTES_KEPT = 64e6;
const MAX_SLICES = 41;
const OPAQUE = 0xff000000;

/**
 * The function from HU to grey, with the arithmetic of Python's (float32), so that it gives the same pixels.
 * @param {{level: number, width: number}} window
 */
export function greyOf(window) {
  const low = Math.fround(window.level - window.width / 2);
  const factor = Math.fround(255 / window.width);
  return (/** @type {number} */ hu) => {
    const scaled = Math.fround(Math.fround(Math.fround(hu) - low) * factor);
    return Math.floor(Math.fround(Math.min(Math.max(scaled, 0), 255) + 0.5));
  };
}

/**
 * Pixels of a slice, opaque grey RGBA; every n-th row and column where the screen shows fewer.
 * @param {{hu: Int16Array | Float32Array, height: number, width: number}} slice
 * @param {{level: number, width: number}} window
 * @param {number} stride
 */
export function greyPixels(slice, window, stride) {
  const grey = greyOf(window);
  const { hu } = slice;
  const [height, width] = [Math.ceil(slice.height / stride), Math.ceil(slice.width / stride)];
  const pixels = new Uint32Array(height * width);
  const opaque = (/** @type {number} */ value) => (OPAQUE | (value * 0x10101)) >>> 0;
  let look = (/** @type {number} */ value) => opaque(grey(value));
  if (hu instanceof Int16Array) {
    const table = new Uint32Array(65536);
    // Beyond the window all is black or white.
    const [low, high] = [window.level - window.width / 2 - 1, window.level + window.width / 2 + 1];
    for (let i = 0; i < 65536; i += 1) {
      const value = i - 32768;
      table[i] = value < low ? OPAQUE : value > high ? 0xffffffff : opaque(grey(value));
    }
    if (stride === 1) {
      for (let i = 0; i < hu.length; i += 1) pixels[i] = table[hu[i] + 32768];
      return { pixels, height, width };
    }
    look = (value) => table[value + 32768];
  }
  for (let row = 0, i = 0; row < height; row += 1) {
    const start = row * stride * slice.width;
    for (let column = 0; column < width; column += 1, i += 1) pixels[i] = look(hu[start + column * stride]);
  }
  return { pixels, height, width };
}

/**
 * HU as Python sent them: all low bytes, then all high bytes for int16; as they are for float32.
 * @param {ArrayBuffer} bytes
 * @param {string} dtype
 */
export function huFrom(bytes, dtype) {
  if (dtype !== "int16") return new Float32Array(bytes);
  const planes = new Uint8Array(bytes);
  const count = planes.length / 2;
  const hu = new Int16Array(count);
  for (let i = 0; i < count; i += 1) hu[i] = planes[i] | (planes[count + i] << 8);
  return hu;
}

/**
 * The slice to ask for next: the one in view first, then its neighbours, nearest first; null if there are all.
 * @param {(index: number) => boolean} has
 * @param {number} index
 * @param {number} count
 * @param {number} most how many are kept
 */
export function nextWanted(has, index, count, most) {
  const reach = Math.floor((most - 1) / 2);
  for (let away = 0; away <= reach; away += 1) {
    for (const each of away === 0 ? [index] : [index + away, index - away]) {
      if (each >= 0 && each < count && !has(each)) return each;
    }
  }
  return null;
}

/** The slices of one series that the page holds, as many as memory allows, the farthest given up first. */
export class SliceStore {
  constructor() {
    this.series = -1;
    /** @type {Map<number, {hu: Int16Array | Float32Array, height: number, width: number}>} */
    this.slices = new Map();
    this.most = MAX_SLICES;
  }

  /**
   * Forget the slices of another series.
   * @param {number} series
   */
  follow(series) {
    if (series === this.series) return;
    this.series = series;
    this.slices.clear();
    this.most = MAX_SLICES;
  }

  /** @param {number} index */
  has(index) {
    return this.slices.has(index);
  }

  /**
   * @param {number} index
   * @param {{hu: Int16Array | Float32Array, height: number, width: number}} slice
   * @param {number} inView
   */
  put(index, slice, inView) {
    this.most = Math.min(Math.max(Math.floor(BYTES_KEPT / slice.hu.byteLength), 1), MAX_SLICES);
    this.slices.set(index, slice);
    while (this.slices.size > this.most) {
      const away = (/** @type {number} */ each) => Math.abs(each - inView);
      const farthest = [...this.slices.keys()].reduce((a, b) => (away(a) >= away(b) ? a : b));
      this.slices.delete(farthest);
    }
  }

  /** @param {number} inView @param {number} count */
  wanted(inView, count) {
    return nextWanted((index) => this.has(index), inView, count, this.most);
  }
}

/**
 * What Python deflated.
 * @param {DataView} packed
 * @returns {Promise<ArrayBuffer>}
 */
export async function inflated(packed) {
  const part = new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength);
  const { writable, readable } = new DecompressionStream("deflate");
  const writer = writable.getWriter();
  // Whoever reads hears of damaged bytes too.
  for (const written of [writer.write(/** @type {any} */ (part)), writer.close()]) written.catch(() => {});
  return new Response(readable).arrayBuffer();
}

/**
 * Unpack a slice that Python sent.
 * @param {DataView} packed
 * @param {{dtype: string, shape: number[]}} content
 */
export async function unpackSlice(packed, content) {
  const bytes = await inflated(packed);
  return { hu: huFrom(bytes, content.dtype), height: content.shape[0], width: content.shape[1] };
}
