/**
 * Which version each of the newest operations has, by its tag: for proposers that missed the entries themselves, and for
 * clients that repeat an operation through another node.
 */

import type { OperationTag } from '../protocol/cluster.ts';
import type { Version } from '../protocol/ids.ts';

/** Tags that are remembered, the newest. */
const TAGS_MAX = 16_384;

export interface RecentTags {
  add(tag: OperationTag | null, version: Version): void;
  find(tag: OperationTag): Version | undefined;
  /** No entry after this one is unknown. */
  since(): Version;
  /** Everything after `version` is gone. */
  takeBack(version: Version): void;
  /** Another state is in place, whose tags are not known. */
  reset(version: Version): void;
}

interface Slot {
  readonly tag: OperationTag;
  readonly version: Version;
}

export function recentTags(start: Version): RecentTags {
  const sessions = new Map<string, Map<number, Version>>();
  let slots: Slot[] = [];
  /** The first slot that still counts. */
  let head = 0;
  let since = start;

  function forget({ tag }: Slot): void {
    const session = sessions.get(tag.session);
    session?.delete(tag.sequence);
    if (session?.size === 0) sessions.delete(tag.session);
  }

  return {
    add(tag, version) {
      if (tag === null) return;
      let session = sessions.get(tag.session);
      if (session === undefined) sessions.set(tag.session, (session = new Map()));
      session.set(tag.sequence, version);
      slots.push({ tag, version });
      if (slots.length - head <= TAGS_MAX) return;
      const oldest = slots[head++];
      if (oldest !== undefined) {
        forget(oldest);
        since = oldest.version;
      }
      if (head >= TAGS_MAX) {
        slots = slots.slice(head);
        head = 0;
      }
    },
    find: (tag) => sessions.get(tag.session)?.get(tag.sequence),
    since: () => since,
    takeBack(version) {
      for (let slot = slots.at(-1); slot !== undefined && slot.version > version; slot = slots.at(-1)) {
        if (slots.length <= head) break;
        forget(slot);
        slots.pop();
      }
      if (version < since) since = version;
    },
    reset(version) {
      sessions.clear();
      slots = [];
      head = 0;
      since = version;
    },
  };
}
