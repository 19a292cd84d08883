/** The bytes of one file in memory: blocks of 1 MiB made on demand, with a flag for each page that was written. */

const BLOCK = 1024 * 1024;
export const PAGE = 4096;

interface Block {
  bytes: Buffer;
  written: Uint8Array;
}

export interface PagedData {
  read(offset: number, target: Buffer, targetStart: number, length: number): void;
  write(offset: number, data: Uint8Array): void;
  /** Zeros the range; pages wholly inside become holes. */
  clear(from: number, to: number): void;
  /** Zeros the range and counts it as data. */
  allocate(from: number, to: number): void;
  isData(offset: number): boolean;
  pages(): number;
}

export function createPagedData(): PagedData {
  const blocks = new Map<number, Block>();
  const blockAt = (index: number): Block => {
    let block = blocks.get(index);
    if (block === undefined) {
      block = { bytes: Buffer.alloc(BLOCK), written: new Uint8Array(BLOCK / PAGE) };
      blocks.set(index, block);
    }
    return block;
  };
  const mark = (offset: number, length: number): void => {
    for (let page = Math.floor(offset / PAGE); page * PAGE < offset + length; page++) {
      blockAt(Math.floor((page * PAGE) / BLOCK)).written[page % (BLOCK / PAGE)] = 1;
    }
  };
  return {
    read(offset, target, targetStart, length) {
      for (let done = 0; done < length; ) {
        const at = offset + done;
        const within = at % BLOCK;
        const count = Math.min(length - done, BLOCK - within);
        const block = blocks.get(Math.floor(at / BLOCK));
        const start = targetStart + done;
        if (block === undefined) target.fill(0, start, start + count);
        else block.bytes.copy(target, start, within, within + count);
        done += count;
      }
    },
    write(offset, data) {
      for (let done = 0; done < data.length; ) {
        const at = offset + done;
        const within = at % BLOCK;
        const count = Math.min(data.length - done, BLOCK - within);
        blockAt(Math.floor(at / BLOCK)).bytes.set(data.subarray(done, done + count), within);
        done += count;
      }
      mark(offset, data.length);
    },
    clear(from, to) {
      for (const [index, block] of blocks) {
        const start = Math.max(from - index * BLOCK, 0);
        const end = Math.min(to - index * BLOCK, BLOCK);
        if (start >= end) continue;
        block.bytes.fill(0, start, end);
        for (let page = Math.ceil(start / PAGE); (page + 1) * PAGE <= end; page++) block.written[page] = 0;
        if (start === 0 && end === BLOCK) blocks.delete(index);
      }
    },
    allocate(from, to) {
      mark(from, to - from);
    },
    isData(offset) {
      const block = blocks.get(Math.floor(offset / BLOCK));
      return block !== undefined && block.written[Math.floor((offset % BLOCK) / PAGE)] === 1;
    },
    pages() {
      let count = 0;
      for (const block of blocks.values()) for (const flag of block.written) count += flag;
      return count;
    },
  };
}
