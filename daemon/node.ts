/** One running node, of whichever kind its role asks for. */

import { startClientNode } from './client-node.ts';
import type { Config } from './protocol/config.ts';
import type { Log } from './runtime/log.ts';
import { startStoringNode } from './storing-node.ts';

export interface RunningNode {
  readonly mountPath: string;
  readonly socketPath: string;
  /** Drains, unmounts, syncs, closes. */
  stop(): Promise<void>;
}

export interface NodeOptions {
  readonly config: Config;
  readonly configFile: string;
  readonly log: Log;
  /** Aborted when the daemon is told to end; a start that waits gives up. */
  readonly stopped: AbortSignal;
  /** Somebody asked over the control channel to end the daemon. */
  readonly onShutdown: () => void;
}

/** Errors: WarrenError of whatever is in the way, after everything started was ended. */
export function startNode(options: NodeOptions): Promise<RunningNode> {
  return options.config.node.role === 'client' ? startClientNode(options) : startStoringNode(options);
}
