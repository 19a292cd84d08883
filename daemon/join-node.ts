/**
 * `warrend join`: a data directory that was made to join becomes a node of the cluster that the token names. Only the
 * identity is fetched; the state comes when the daemon starts.
 *
 * A crash or a lost answer at any step is mended by doing it again with the same token: the key is on the disk before
 * the first attempt, and the directory counts as joined only when the identity is there.
 */

import { advertisedAddress } from './advertise.ts';
import { saveMembers } from './known-members.ts';
import { joinCluster } from './peers/join.ts';
import { readToken } from './peers/token.ts';
import type { Config } from './protocol/config.ts';
import { markJoined, readDataDirectoryFormat } from './protocol/data-directory-format.ts';
import { WarrenError } from './protocol/errors.ts';

export interface JoinResult {
  readonly node: string;
  readonly clusterName: string;
  readonly clusterId: string;
  readonly memberNumber: number;
  readonly members: number;
}

/** Errors: JOIN_NOT_POSSIBLE, those of the token and of `joinCluster`. */
export async function joinNode(config: Config, tokenText: string): Promise<JoinResult> {
  const { id, role, dataDirectory, bind, advertise } = config.node;
  const token = readToken(tokenText, Date.now());
  const format = readDataDirectoryFormat(dataDirectory);
  if (format?.origin !== 'joining') {
    throw new WarrenError({
      code: 'JOIN_NOT_POSSIBLE',
      message:
        format === undefined
          ? `${dataDirectory} is no data directory.`
          : `${dataDirectory} belongs to a cluster already; nothing was changed.`,
      hint: 'make a new node with `warren join TOKEN -d DIR`',
    });
  }
  const port = Number(bind.slice(bind.lastIndexOf(':') + 1));
  const joined = await joinCluster({
    token,
    dataDirectory,
    nodeId: id,
    role,
    address: advertisedAddress({ bind, advertise, port }),
  });
  if (role === 'client') saveMembers(dataDirectory, joined);
  markJoined(dataDirectory, { clusterId: joined.identity.clusterId, memberNumber: joined.number });
  return {
    node: id,
    clusterName: joined.clusterName,
    clusterId: joined.identity.clusterId,
    memberNumber: joined.number,
    members: joined.members.length,
  };
}
