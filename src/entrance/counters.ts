import type { SessionErrorCode } from "./packets.ts";
import type { Session, SessionEnd } from "./session.ts";

/** What an entrance knows of itself; counts are since its start. */
export interface EntranceStatus {
  /** Clients that have no session yet. */
  readonly starting: number;
  /** Open sessions by region. */
  readonly sessions: ReadonlyMap<string, number>;
  readonly opened: ReadonlyMap<string, number>;
  readonly ended: ReadonlyMap<SessionEnd, number>;
  readonly refused: ReadonlyMap<SessionErrorCode, number>;
  /** Clients dropped because too many had not begun. */
  readonly dropped: number;
  readonly cancelRequests: number;
  readonly bytesToClients: number;
  readonly bytesToMasters: number;
}

const increment = <K>(counts: Map<K, number>, key: K): void => {
  counts.set(key, (counts.get(key) ?? 0) + 1);
};

export class EntranceCounters {
  readonly #opened = new Map<string, number>();
  readonly #ended = new Map<SessionEnd, number>();
  readonly #refused = new Map<SessionErrorCode, number>();
  #dropped = 0;
  #cancelRequests = 0;
  /** Of sessions that have ended. */
  #bytesToClients = 0;
  #bytesToMasters = 0;

  opened(region: string): void {
    increment(this.#opened, region);
  }

  ended(session: Session, how: SessionEnd): void {
    increment(this.#ended, how);
    this.#bytesToClients += session.bytes.toClient;
    this.#bytesToMasters += session.bytes.toServer;
  }

  refused(code: SessionErrorCode): void {
    increment(this.#refused, code);
  }

  dropped(): void {
    this.#dropped += 1;
  }

  cancelled(): void {
    this.#cancelRequests += 1;
  }

  status(starting: number, sessions: ReadonlySet<Session>): EntranceStatus {
    const byRegion = new Map<string, number>();
    let bytesToClients = this.#bytesToClients;
    let bytesToMasters = this.#bytesToMasters;
    for (const session of sessions) {
      increment(byRegion, session.master.region);
      bytesToClients += session.bytes.toClient;
      bytesToMasters += session.bytes.toServer;
    }
    return {
      starting,
      sessions: byRegion,
      opened: this.#opened,
      ended: this.#ended,
      refused: this.#refused,
      dropped: this.#dropped,
      cancelRequests: this.#cancelRequests,
      bytesToClients,
      bytesToMasters,
    };
  }
}
