/**
 * `Peers` over real sockets: a port, and a link to every member.
 *
 * A node calls on the connections that it dialled and answers on those it accepted, one per lane and direction. That
 * leaves nothing to agree upon when two nodes dial each other, and a connection that does not read requests, because
 * its handlers are busy, holds back no answer.
 *
 * What can go wrong is in the files for the parts: `listener` (strangers), `dial` and `link` (reaching a node),
 * `wire` (a connection that dies), `call-lane` and `answerer` (calls and their limits), `hello` (who is refused).
 */

import type { Member } from '../protocol/cluster.ts';
import type { NodeId, Version } from '../protocol/ids.ts';
import { LANES, type PeerAnswer, type PeerMethod, type PeerRequest } from '../protocol/peer-api.ts';
import { parseAddress } from '../protocol/addresses.ts';
import { assert } from '../runtime/assert.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { type AnyHandler, Answerer, BulkBudget } from './answerer.ts';
import type { CertifiedPeer } from './certificates.ts';
import { type MemberBook, memberRefusal } from './hello.ts';
import type { Identity } from './identity.ts';
import {
  type Answer,
  type CallOptions,
  type Handler,
  type LinkState,
  PeerError,
  type Peers,
} from './interface.ts';
import type { JoinHandler } from './join-messages.ts';
import { TICK_MS } from './limits.ts';
import { Link } from './link.ts';
import { type Accepted, openListener } from './listener.ts';
import { openQuietLog } from './quiet-log.ts';
import type { Wire } from './wire.ts';

export interface PeersOptions {
  readonly identity: Identity;
  /** `host:port`; port 0 takes a free one. */
  readonly bind: string;
  /** Decides about machines that want to join. */
  readonly onJoin: JoinHandler;
  readonly clock: Clock;
  readonly log: Log;
}

/** How another node is reached, for `warren servers`. */
export interface LinkView {
  readonly state: LinkState;
  /** Where it is connected, or why it is not. */
  readonly reason: string;
  readonly release: string | undefined;
}

/** `Peers` with what its owner does besides calling. */
export interface PeerNetwork extends Peers {
  /** Where this node listens. */
  readonly address: string;
  /** The member list as it stands at `version` of the log. Links are made, moved and ended to fit. */
  setMembers(members: readonly Member[], version: Version): void;
  /** `id` may be reached at `address`, too. Untrusted: it only adds an attempt. */
  hintAddress(id: NodeId, address: string): void;
  /** New connections use `identity` from now on (a renewed certificate). */
  setIdentity(identity: Identity): void;
  describe(id: NodeId): LinkView;
  /** Ends every connection and call. */
  close(): Promise<void>;
}

interface AcceptedLane extends Accepted {
  readonly answerer: Answerer;
}

/** Listens. Errors: PEER_BIND_INVALID, PEER_PORT_IN_USE, PEER_BIND_FAILED. */
export async function openPeers(options: PeersOptions): Promise<PeerNetwork> {
  const { clock } = options;
  const self = options.identity.nodeId;
  const log = openQuietLog(options.log, clock);
  const links = new Map<NodeId, Link>();
  const handlers = new Map<PeerMethod, AnyHandler>();
  const listeners = new Set<(id: NodeId, state: LinkState) => void>();
  /** By node and lane: what it dialled. */
  const accepted = new Map<string, AcceptedLane>();
  const wires = new Set<Wire>();
  const budget = new BulkBudget();
  let identity = options.identity;
  let book: MemberBook = { version: 0, members: new Map() };
  let closed = false;

  const onAccepted = (entry: Accepted): void => {
    const { wire, hello, peer } = entry;
    const place = `${hello.lane} ${peer.id}`;
    // It dialled anew because the earlier connection is dead; nothing late may come from that.
    accepted.get(place)?.wire.destroy('the other side made a new one');
    const answerer = new Answerer({
      wire,
      peer: peer.id,
      lane: hello.lane,
      methods: hello.methods,
      handlers,
      budget,
      log,
    });
    const lane: AcceptedLane = { ...entry, answerer };
    accepted.set(place, lane);
    wires.add(wire);
    wire.own({
      onFrame: (frame) => answerer.onFrame(frame),
      onClose: (reason, fault) => {
        if (fault) logRefusal(peer, reason);
        answerer.close();
        wires.delete(wire);
        if (accepted.get(place) === lane) accepted.delete(place);
      },
    });
    // Who dials us lives: what waits for the next attempt need not.
    const link = links.get(peer.id);
    if (link !== undefined && link.state !== 'connected') link.wake();
  };

  const openLink = (member: Member): Link =>
    new Link({
      member,
      identity: () => identity,
      book: () => book,
      clock,
      log,
      onState: (state) => {
        for (const listener of [...listeners]) listener(member.id, state);
      },
      onWire: (wire) => {
        wires.add(wire);
        wire.socket.once('close', () => wires.delete(wire));
      },
    });

  const listener = await openListener({
    bind: options.bind,
    identity: () => identity,
    book: () => book,
    log,
    onAccepted,
    onJoin: options.onJoin,
  });
  const ticker = setInterval(() => {
    for (const wire of [...wires]) wire.tick();
  }, TICK_MS);

  const reviewAccepted = (): void => {
    for (const { wire, peer, hello } of [...accepted.values()]) {
      const refusal = memberRefusal(peer, book, hello.members);
      if (refusal === undefined) continue;
      logRefusal(peer, refusal.message);
      wire.destroy(refusal.message);
    }
  };
  const logRefusal = (peer: CertifiedPeer, reason: string): void =>
    log.warn(`ended ${peer.id}`, 'the connections of a node were ended', { node: peer.id, reason });

  return {
    self,
    address: listener.address,

    async call<M extends PeerMethod>(
      to: NodeId,
      method: M,
      request: PeerRequest<M>,
      callOptions: CallOptions,
    ): Promise<Answer<M>> {
      const link = links.get(to);
      if (link === undefined) {
        const why = to === self ? 'it is this node' : 'it is not a member';
        throw new PeerError('unreachable', `"${method}" to node "${to}" was not sent: ${why}`);
      }
      const result = await link.lane(LANES[method]).call({ method, request, ...callOptions });
      return { answer: result.answer as PeerAnswer<M>, bytes: result.bytes };
    },

    handle<M extends PeerMethod>(method: M, handler: Handler<M>): void {
      assert(!handlers.has(method), `"${method}" has one handler`);
      handlers.set(method, handler);
    },

    link: (id) => links.get(id)?.state ?? 'lost',

    onLink(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },

    setMembers(members, version) {
      if (closed) return;
      book = { version, members: new Map(members.map((member) => [member.id, member])) };
      const wanted = new Set<NodeId>();
      for (const member of members) {
        if (member.id === self || member.state === 'removed') continue;
        wanted.add(member.id);
        const link = links.get(member.id);
        if (link === undefined) links.set(member.id, openLink(member));
        else link.move(member.address);
      }
      for (const [id, link] of links) {
        if (!wanted.has(id)) {
          links.delete(id);
          link.close('it is no member any more');
        } else {
          link.review(book);
        }
      }
      reviewAccepted();
    },

    hintAddress(id, address) {
      const parsed = parseAddress(address);
      if (parsed !== undefined && parsed.port !== 0) links.get(id)?.hint(address);
    },

    setIdentity(renewed) {
      assert(renewed.nodeId === self && renewed.clusterId === identity.clusterId, 'a node keeps its name');
      identity = renewed;
      listener.renewed();
    },

    describe(id) {
      const link = links.get(id);
      return {
        state: link?.state ?? 'lost',
        reason: link?.reason ?? 'it is not a member',
        release: link?.release,
      };
    },

    async close() {
      closed = true;
      clearInterval(ticker);
      for (const link of links.values()) link.close('this node is closing');
      links.clear();
      for (const { wire } of [...accepted.values()]) wire.destroy('this node is closing');
      await listener.close();
    },
  };
}
