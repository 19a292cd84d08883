/**
 * The first frame of each side, and whether the other side is somebody to talk to.
 *
 * A link is trusted only after the other's hello: in TLS 1.3 a client that the server is about to refuse sees a
 * finished handshake all the same. The certificate says who it is, the member list whether it still belongs here.
 *
 * A node that comes back after a long time may not know a member that joined meanwhile. So a stranger with a
 * certificate of this cluster is let in when its member list is newer than ours: it then brings the entries that name
 * it. A key that our list has as removed stays out whatever it says.
 */

import { z } from 'zod';
import type { Member } from '../protocol/cluster.ts';
import { nodeIdSchema } from '../protocol/config-keys.ts';
import type { NodeId } from '../protocol/ids.ts';
import { PEER_PROTOCOL_VERSION } from '../protocol/peer-api.ts';
import { RELEASE } from '../protocol/release.ts';
import { printable } from '../protocol/text.ts';
import type { CertifiedPeer } from './certificates.ts';
import type { Identity } from './identity.ts';

const METHODS_MAX = 200;

/** What even a node of another protocol version says. */
const versionSchema = z.object({ protocol: z.number().int(), release: z.string().max(64) });

const helloSchema = versionSchema.extend({
  cluster: z.string().max(100),
  node: nodeIdSchema,
  lane: z.enum(['control', 'log', 'bulk']),
  /** Where the sender's member list stands in the log. */
  members: z.number().int().min(0),
  /** Names of its methods; a request carries the place of its method in this list. */
  methods: z.array(z.string().max(64)).max(METHODS_MAX),
});

export type Hello = z.infer<typeof helloSchema>;

export interface Refusal {
  readonly code: 'version' | 'cluster' | 'removed' | 'stranger' | 'self' | 'garbage';
  /** A whole sentence, for both sides' logs. */
  readonly message: string;
}

/** The member list as the other rooms gave it last. */
export interface MemberBook {
  /** The version of the log at which the list stands. */
  readonly version: number;
  readonly members: ReadonlyMap<NodeId, Member>;
}

/** A hello that was understood, or why not. */
export function readHello(value: unknown): { hello: Hello } | { refusal: Refusal } {
  const refusal = versionRefusal(value);
  if (refusal !== undefined) return { refusal };
  const parsed = helloSchema.safeParse(value);
  if (parsed.success) return { hello: parsed.data };
  return { refusal: { code: 'garbage', message: 'A connection began with something that is not a hello.' } };
}

/** Why a node that begins with `value` speaks another language, undefined when it does not. */
export function versionRefusal(value: unknown): Refusal | undefined {
  const parsed = versionSchema.safeParse(value);
  if (!parsed.success) {
    return { code: 'garbage', message: 'A connection began with something that is not a hello.' };
  }
  const { protocol, release } = parsed.data;
  if (protocol === PEER_PROTOCOL_VERSION) return undefined;
  return {
    code: 'version',
    message:
      `One node has release ${printable(release)}, which speaks version ${protocol} of the protocol between nodes, the other ` +
      `release ${RELEASE} with version ${PEER_PROTOCOL_VERSION}: install the same release on both.`,
  };
}

/** Why `hello` of the owner of `peer`'s certificate is refused; undefined when it is welcome. */
export function helloRefusal(options: {
  readonly hello: Hello;
  readonly peer: CertifiedPeer;
  readonly identity: Identity;
  readonly book: MemberBook;
}): Refusal | undefined {
  const { hello, peer, identity, book } = options;
  if (hello.cluster !== identity.clusterId || peer.clusterId !== identity.clusterId) {
    return { code: 'cluster', message: `Node "${hello.node}" belongs to another cluster.` };
  }
  if (hello.node !== peer.id) {
    return {
      code: 'stranger',
      message: `A node says it is "${hello.node}", and its certificate is that of "${peer.id}".`,
    };
  }
  if (peer.id === identity.nodeId) {
    return {
      code: 'self',
      message: `Node "${peer.id}" was reached by itself, or two machines have its identity.`,
    };
  }
  return memberRefusal(peer, book, hello.members);
}

/** The part of it that may change while a connection lasts. `theirVersion`: where the other's list stood. */
export function memberRefusal(
  peer: CertifiedPeer,
  book: MemberBook,
  theirVersion: number,
): Refusal | undefined {
  for (const member of book.members.values()) {
    if (member.key === peer.key && member.state === 'removed') {
      return { code: 'removed', message: `Node "${peer.id}" was removed from this cluster.` };
    }
  }
  const member = book.members.get(peer.id);
  if (member?.key === peer.key) return undefined;
  if (member !== undefined && member.state !== 'removed') {
    return {
      code: 'stranger',
      message: `Node "${peer.id}" has another key than the member list says.`,
    };
  }
  if (theirVersion > book.version) return undefined;
  return { code: 'stranger', message: `Node "${peer.id}" is not a member of this cluster.` };
}
