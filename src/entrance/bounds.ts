/** The bounds of one entrance. */
export interface EntranceBounds {
  /** Sessions at a time; the next client is refused with SQLSTATE 53300. */
  readonly maxSessions: number;
  /** Clients at a time that have no session yet; for one more, the one that has been at it longest is dropped. */
  readonly maxStarting: number;
  /** How long a client may take for each packet before its session begins. */
  readonly startupMs: number;
  /** How long a master may take for its first answer, if there is another one to try. */
  readonly attemptMs: number;
  /** The longest that is tried to find a master that answers. */
  readonly dialMs: number;
  /** A line is asked for a sign of life when nothing has come for so long. */
  readonly keepAliveMs: number;
  /** At a master that drains, an encrypted session counts as idle when its client has said nothing for so long. */
  readonly quietMs: number;
  /** How long a client may take to hang up after its session has ended. */
  readonly lingerMs: number;
}

export const defaultEntranceBounds: EntranceBounds = {
  maxSessions: 2_000,
  maxStarting: 1_000,
  startupMs: 10_000,
  attemptMs: 3_000,
  dialMs: 20_000,
  keepAliveMs: 10_000,
  quietMs: 10_000,
  lingerMs: 5_000,
};
