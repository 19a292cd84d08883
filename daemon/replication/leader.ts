/**
 * The leader's side of the protocol, without I/O: events come in as calls with the time, effects come out of `take`.
 * It knows where each follower is, what to send next, what is committed, and who is in sync.
 *
 * Committed. An entry is committed when the leader has written it and every in-sync node has acknowledged it. The
 * in-sync set is changed by an entry; until that entry is committed by the new set, the nodes of the old set count
 * too, so that nothing is ever answered that a node which others believe to be in sync does not have. Nothing is
 * committed before the leadership's own first entry is.
 *
 * Who leaves. A node whose oldest unacknowledged append is ANSWER_WITHIN_MS old, that is gone, or that was not heard
 * for SILENT_MS. After a stall of the leader itself nobody is removed until the others had the time to answer.
 *
 * Windows. A follower in step ("stream") has at most APPENDS_MAX appends and WINDOW_BYTES under way; entries that come
 * meanwhile share the next append. One out of step ("probe") has one append under way, after a pause when it failed.
 */

import type { EncodedEntry, EpochStart, LogPosition } from '../protocol/cluster.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { AppendAnswer, AppendRequest } from '../protocol/peer-api.ts';
import { assert } from '../runtime/assert.ts';
import { commonPoint, epochAt, startsWithin } from './history.ts';

/** Appends and bytes under way to one follower, and bytes of one append. */
const APPENDS_MAX = 8;
const WINDOW_BYTES = 8 * 1024 * 1024;
const APPEND_BYTES = 1024 * 1024;
/** An in-sync node that owes an answer for this long leaves; leaving takes the rest of the promised 2 s. */
const ANSWER_WITHIN_MS = 1700;
/** An in-sync node that nothing was heard of for this long leaves, also when nothing is to be done. */
const SILENT_MS = 2000;
/** A tick that comes later than this after the last one: this process stood still. */
const STALL_MS = 800;
/** Pause before a follower that failed is tried again. */
const RETRY_MS = 100;
/** A follower joins when at most this many entries are under way to it. */
const JOIN_LAG_ENTRIES = 64;
/** A node that was too slow stays out at least this long. */
const REJOIN_AFTER_MS = 1000;

/** The log as the leader's protocol sees it. */
export interface LogSource {
  last(): LogPosition;
  epochs(): readonly EpochStart[];
  /** Entries after `version`, up to about `bytesMax` and at least one; undefined: it does not reach back so far. */
  after(version: Version, bytesMax: number): readonly EncodedEntry[] | undefined;
}

export type LeaderEffect =
  | {
      readonly kind: 'send';
      readonly to: NodeId;
      readonly ticket: number;
      readonly request: AppendRequest;
      readonly entries: readonly EncodedEntry[];
    }
  /** Entries up to here are on every in-sync node; are durable there. */
  | { readonly kind: 'committed'; readonly version: Version }
  | { readonly kind: 'durable'; readonly version: Version }
  /** The in-sync set should become this one. */
  | { readonly kind: 'in-sync'; readonly nodes: readonly NodeId[]; readonly why: string }
  /** `from` accepts nothing older than `epoch`. */
  | { readonly kind: 'refused'; readonly from: NodeId; readonly epoch: Epoch };

export type FollowerMode = 'probe' | 'stream' | 'snapshot';

export interface FollowerView {
  readonly id: NodeId;
  readonly mode: FollowerMode;
  readonly acked: Version;
  /** Why it is not in step; empty when it is. */
  readonly reason: string;
}

interface Flight {
  readonly ticket: number;
  readonly through: Version;
  readonly bytes: number;
  readonly sentMs: number;
}

interface Follower {
  readonly id: NodeId;
  mode: FollowerMode;
  /** Known to be there: everything up to here, from this log. */
  acked: Version;
  durable: Version;
  /** Sent up to here (stream). */
  sent: Version;
  durableAsked: Version;
  committedTold: Version;
  flights: Flight[];
  flightBytes: number;
  /** Since when it owes an acknowledgement. */
  owesSinceMs: number | undefined;
  /** Not tried again before. */
  pausedUntilMs: number;
  joinsFromMs: number;
  gone: boolean;
  /** Its last answer shows that entries cannot bring it up. */
  needsCopy: boolean;
  reason: string;
}

export interface Leader {
  readonly epoch: Epoch;
  committed(): Version;
  /** The log got entries; what is to be sent is sent at the next `flush`. */
  flush(nowMs: number): void;
  /** The leader's own log is written, is durable up to here. */
  written(version: Version): void;
  durable(version: Version): void;
  /** Everything up to `version` should become durable everywhere. */
  wantDurable(version: Version): void;
  answered(from: NodeId, ticket: number, answer: AppendAnswer, nowMs: number): void;
  failed(from: NodeId, ticket: number, reason: string, nowMs: number): void;
  /** An entry changed the in-sync set. */
  inSyncChanged(nodes: readonly NodeId[], version: Version, nowMs: number): void;
  /** The last `in-sync` effect did not become an entry: it may be asked again. */
  inSyncRefused(): void;
  setFollowers(ids: readonly NodeId[], nowMs: number): void;
  gone(id: NodeId, gone: boolean, nowMs: number): void;
  /** `heardMs`: when the node was heard last. */
  tick(nowMs: number, heardMs: (id: NodeId) => number | undefined): void;
  followers(): readonly FollowerView[];
  /** It has acknowledged everything. */
  hasAll(id: NodeId): boolean;
  take(): readonly LeaderEffect[];
}

export interface LeaderOptions {
  readonly self: NodeId;
  readonly epoch: Epoch;
  readonly source: LogSource;
  readonly inSync: readonly NodeId[];
  readonly followers: readonly NodeId[];
  /** The entry that begins the leadership; it is in the log already. */
  readonly first: Version;
  readonly committed: Version;
  readonly nowMs: number;
}

export function openLeader(options: LeaderOptions): Leader {
  const { self, epoch, source } = options;
  const followers = new Map<NodeId, Follower>();
  let effects: LeaderEffect[] = [];
  let tickets = 0;
  let written = 0 as Version;
  let ownDurable = 0 as Version;
  let committed = options.committed;
  let durableEverywhere = 0 as Version;
  let durableWanted = 0 as Version;
  let inSync = options.inSync.filter((id) => id !== self);
  /** The set that counts besides, and the entry that ends it. */
  let before: { readonly nodes: readonly NodeId[]; readonly until: Version } | undefined;
  let changeAsked = false;
  let lastTickMs = options.nowMs;
  let patientUntilMs = 0;

  function follower(id: NodeId): Follower {
    return {
      id,
      mode: 'probe',
      acked: 0 as Version,
      durable: 0 as Version,
      // A follower that was in step with the last leader has what stands before this leadership.
      sent: (options.first - 1) as Version,
      durableAsked: 0 as Version,
      committedTold: 0 as Version,
      flights: [],
      flightBytes: 0,
      owesSinceMs: undefined,
      pausedUntilMs: 0,
      joinsFromMs: 0,
      gone: false,
      needsCopy: false,
      reason: 'not heard of yet',
    };
  }

  function setFollowers(ids: readonly NodeId[], nowMs: number): void {
    for (const id of followers.keys()) if (!ids.includes(id)) followers.delete(id);
    for (const id of ids) {
      if (id === self || followers.has(id)) continue;
      const added = follower(id);
      added.owesSinceMs = nowMs;
      followers.set(id, added);
    }
  }

  function send(
    to: Follower,
    after: Version,
    entries: readonly EncodedEntry[],
    nowMs: number,
    fetch = false,
  ): void {
    const through = (after + entries.length) as Version;
    const epochs = source.epochs();
    let bytes = 0;
    const sizes: number[] = [];
    for (const { body } of entries) {
      sizes.push(body.length);
      bytes += body.length;
    }
    const durableTo = durableWanted <= through ? durableWanted : (0 as Version);
    if (durableTo > to.durableAsked) to.durableAsked = durableTo;
    to.committedTold = committed;
    to.flights.push({ ticket: ++tickets, through, bytes, sentMs: nowMs });
    to.flightBytes += bytes;
    to.owesSinceMs ??= nowMs;
    effects.push({
      kind: 'send',
      to: to.id,
      ticket: tickets,
      entries,
      request: {
        epoch,
        leader: self,
        previous: { epoch: epochAt(epochs, after), version: after },
        sizes,
        starts: startsWithin(epochs, after, through),
        fetch,
        committed,
        durableTo: durableTo > to.durable ? durableTo : (0 as Version),
      },
    });
  }

  /** Sends what is to be sent to one follower, as far as its window is open. */
  function pump(to: Follower, nowMs: number): void {
    if (to.gone || nowMs < to.pausedUntilMs) return;
    const tail = source.last().version;
    if (to.mode !== 'stream') {
      if (to.flights.length > 0) return;
      const entries = to.needsCopy ? undefined : source.after(to.sent, APPEND_BYTES);
      // Without entries to send, the end of the log asks where the follower is; its answer may ask for a copy.
      if (entries === undefined) send(to, to.needsCopy ? to.sent : tail, [], nowMs, to.needsCopy);
      else send(to, to.sent, entries, nowMs);
      to.needsCopy = false;
      return;
    }
    while (to.sent < tail && to.flights.length < APPENDS_MAX && to.flightBytes < WINDOW_BYTES) {
      const entries = source.after(to.sent, APPEND_BYTES);
      if (entries === undefined || entries.length === 0) {
        restart(to, 'the log was trimmed meanwhile', nowMs);
        return;
      }
      const after = to.sent;
      to.sent = (after + entries.length) as Version;
      send(to, after, entries, nowMs);
    }
    if (durableWanted > to.durableAsked && to.sent >= durableWanted && to.flights.length < APPENDS_MAX) {
      send(to, to.sent, [], nowMs);
    }
  }

  function restart(to: Follower, reason: string, nowMs: number): void {
    to.mode = 'probe';
    to.sent = to.acked;
    to.flights = [];
    to.flightBytes = 0;
    to.durableAsked = to.durable;
    to.pausedUntilMs = nowMs + RETRY_MS;
    to.reason = reason;
    to.owesSinceMs ??= nowMs;
  }

  /** The lowest place that every one of `nodes` has reached. */
  function lowest(nodes: readonly NodeId[], own: Version, reached: (follower: Follower) => Version): Version {
    let version: number = own;
    for (const id of nodes) {
      if (id === self) continue;
      const follower = followers.get(id);
      version = Math.min(version, follower === undefined ? 0 : reached(follower));
    }
    return version as Version;
  }

  function acked(follower: Follower): Version {
    return follower.acked;
  }

  function advance(): void {
    let reached = lowest(inSync, written, acked);
    if (before !== undefined) {
      if (reached >= before.until) before = undefined;
      else reached = lowest(before.nodes, reached, acked);
    }
    if (reached > committed && reached >= options.first) {
      committed = reached;
      effects.push({ kind: 'committed', version: committed });
    }
    const durable = Math.min(
      committed,
      lowest(
        before === undefined ? inSync : [...inSync, ...before.nodes],
        ownDurable,
        (follower) => follower.durable,
      ),
    ) as Version;
    if (durable > durableEverywhere) {
      durableEverywhere = durable;
      effects.push({ kind: 'durable', version: durable });
    }
  }

  function land(from: Follower, ticket: number): Flight | undefined {
    const index = from.flights.findIndex((flight) => flight.ticket === ticket);
    const flight = from.flights[index];
    if (flight === undefined) return undefined;
    from.flights.splice(index, 1);
    from.flightBytes -= flight.bytes;
    return flight;
  }

  function settleDebt(of: Follower): void {
    const oldest = of.flights[0];
    of.owesSinceMs =
      oldest?.sentMs ??
      (of.acked < source.last().version || of.mode !== 'stream' ? of.owesSinceMs : undefined);
  }

  function answered(id: NodeId, ticket: number, answer: AppendAnswer, nowMs: number): void {
    const from = followers.get(id);
    const flight = from === undefined ? undefined : land(from, ticket);
    // An answer to what was sent before a restart says nothing about now.
    if (from === undefined || flight === undefined) return;
    switch (answer.kind) {
      case 'appended':
        if (from.mode !== 'stream') {
          from.mode = 'stream';
          from.sent = flight.through;
          from.reason = 'catching up';
          from.acked = flight.through;
          from.durable = Math.min(from.durable, flight.through) as Version;
        }
        if (flight.through > from.acked) from.acked = flight.through;
        from.durable = Math.max(from.durable, Math.min(answer.durable, from.acked)) as Version;
        settleDebt(from);
        advance();
        join(from, nowMs);
        break;
      case 'mismatch': {
        const common = commonPoint(
          { last: source.last(), epochs: source.epochs() },
          { last: answer.last, epochs: answer.epochs },
        );
        restart(from, 'its log parts from the leader’s', nowMs);
        from.pausedUntilMs = nowMs;
        from.acked = Math.min(from.acked, common.version) as Version;
        from.durable = Math.min(from.durable, common.version) as Version;
        from.sent = common.version;
        if (source.after(common.version, 1) === undefined) {
          from.mode = 'snapshot';
          from.needsCopy = true;
          from.reason = 'the log does not reach back to what it has: it gets a whole copy';
        }
        break;
      }
      case 'busy':
        restart(from, answer.reason, nowMs);
        if (answer.work === 'snapshot') from.mode = 'snapshot';
        break;
      case 'stale':
        restart(from, `it listens to leadership ${answer.epoch} and newer`, nowMs);
        effects.push({ kind: 'refused', from: id, epoch: answer.epoch });
        break;
    }
    pump(from, nowMs);
  }

  function propose(nodes: readonly NodeId[], why: string): void {
    changeAsked = true;
    effects.push({ kind: 'in-sync', nodes: [self, ...nodes], why });
  }

  /** A follower that has caught up joins the in-sync set. */
  function join(candidate: Follower, nowMs: number): void {
    if (changeAsked || before !== undefined || candidate.mode !== 'stream') return;
    if (inSync.includes(candidate.id) || nowMs < candidate.joinsFromMs || candidate.gone) return;
    const tail = source.last().version;
    if (candidate.acked < committed || tail - candidate.acked > JOIN_LAG_ENTRIES) return;
    if (candidate.durable < durableEverywhere) {
      // What was promised to be durable on every in-sync node must be so on this one before it is one.
      if (candidate.flights.length === 0) {
        durableWanted = Math.max(durableWanted, durableEverywhere) as Version;
        if (candidate.durableAsked >= durableWanted) candidate.durableAsked = 0 as Version;
      }
      return;
    }
    propose([...inSync, candidate.id], `${candidate.id} has caught up`);
  }

  function whyRemoved(id: NodeId, nowMs: number, heardMs: number | undefined): string | undefined {
    const follower = followers.get(id);
    if (follower === undefined) return 'is no member that stores';
    if (follower.gone) return 'its process is gone';
    if (nowMs < patientUntilMs) return undefined;
    const owed = follower.owesSinceMs === undefined ? 0 : nowMs - follower.owesSinceMs;
    if (owed >= ANSWER_WITHIN_MS) return `has not answered for ${Math.round(owed)} ms`;
    if (heardMs !== undefined && nowMs - heardMs >= SILENT_MS) return 'is silent';
    return undefined;
  }

  function removeLost(nowMs: number, heardMs: (id: NodeId) => number | undefined): void {
    if (changeAsked) return;
    const reasons: string[] = [];
    const staying = inSync.filter((id) => {
      const why = whyRemoved(id, nowMs, heardMs(id));
      if (why === undefined) return true;
      reasons.push(`${id} ${why}`);
      const follower = followers.get(id);
      if (follower !== undefined) follower.joinsFromMs = nowMs + (follower.gone ? 0 : REJOIN_AFTER_MS);
      return false;
    });
    if (reasons.length > 0) propose(staying, reasons.join('; '));
  }

  setFollowers(options.followers, options.nowMs);

  return {
    epoch,
    committed: () => committed,
    flush(nowMs) {
      for (const follower of followers.values()) pump(follower, nowMs);
    },
    written(version) {
      assert(version >= written, 'the log is written in order');
      written = version;
      advance();
    },
    durable(version) {
      if (version > ownDurable) ownDurable = version;
      advance();
    },
    wantDurable(version) {
      if (version > durableWanted) durableWanted = version;
    },
    answered,
    failed(id, ticket, reason, nowMs) {
      const from = followers.get(id);
      if (from === undefined || land(from, ticket) === undefined) return;
      restart(from, reason, nowMs);
    },
    inSyncChanged(nodes, version, nowMs) {
      changeAsked = false;
      const old = before === undefined ? inSync : [...before.nodes, ...inSync];
      before = { nodes: old, until: version };
      inSync = nodes.filter((id) => id !== self);
      for (const follower of followers.values()) if (!inSync.includes(follower.id)) settleDebt(follower);
      for (const id of inSync) {
        const follower = followers.get(id);
        if (follower !== undefined && !old.includes(id)) follower.owesSinceMs = nowMs;
      }
      advance();
    },
    inSyncRefused() {
      changeAsked = false;
    },
    setFollowers,
    gone(id, gone, nowMs) {
      const follower = followers.get(id);
      if (follower === undefined || follower.gone === gone) return;
      follower.gone = gone;
      if (gone) restart(follower, 'its process is gone', nowMs);
      follower.pausedUntilMs = nowMs;
    },
    tick(nowMs, heardMs) {
      if (nowMs - lastTickMs >= STALL_MS) patientUntilMs = nowMs + SILENT_MS;
      lastTickMs = nowMs;
      removeLost(nowMs, heardMs);
      for (const follower of followers.values()) {
        join(follower, nowMs);
        pump(follower, nowMs);
        const untold = follower.mode === 'stream' && follower.committedTold < committed;
        if (untold && follower.flights.length === 0 && !follower.gone)
          send(follower, follower.sent, [], nowMs);
      }
    },
    followers: () =>
      [...followers.values()].map(({ id, mode, acked, reason }) => ({
        id,
        mode,
        acked,
        reason: inSync.includes(id) && mode === 'stream' ? '' : reason,
      })),
    hasAll(id) {
      const follower = followers.get(id);
      return follower?.mode === 'stream' && follower.acked === source.last().version;
    },
    take() {
      const taken = effects;
      effects = [];
      return taken;
    },
  };
}
