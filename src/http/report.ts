import type { AgentStatus, LinkState, LinkStatus } from "../replication/status.ts";
import { lagBytes, lagSeconds } from "./lag.ts";

/** The answer of `GET /v1/status`: what the agent knows of itself. LSNs in PostgreSQL's text form. */
export interface AgentReport {
  readonly cluster: string;
  readonly region: string;
  readonly regionId: number;
  readonly version: string;
  readonly role: AgentStatus["role"];
  readonly startedAt: string;
  readonly links: readonly LinkReport[];
  readonly quarantined: Readonly<Record<string, number>>;
}

export interface LinkReport {
  readonly peer: string;
  readonly state: LinkState;
  readonly since: string;
  readonly lagSeconds: number;
  readonly lagBytes: number;
  readonly sourceLsn: string;
  readonly receivedLsn: string;
  readonly mergedLsn: string;
  readonly confirmedLsn: string;
  readonly clockSkewMs: number;
  readonly roundTripMs: number;
  readonly transactions: number;
  readonly rows: number;
  readonly tombstones: number;
  readonly conflicts: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly lastError: string | null;
  readonly resyncs: number;
  readonly resync: { readonly table: string; readonly rowsDone: number; readonly rowsTotal: number } | null;
  /** Tables of the peer that do not fit here, with the reason. */
  readonly misfits: Readonly<Record<string, string>>;
}

/** `16/B374D848`, as PostgreSQL writes a WAL position. */
export const lsnText = (lsn: bigint): string =>
  `${(lsn >> 32n).toString(16)}/${(lsn & 0xffffffffn).toString(16)}`.toUpperCase();

export const agentReport = (status: AgentStatus, nowMs: number): AgentReport => ({
  cluster: status.cluster,
  region: status.region,
  regionId: status.regionId,
  version: status.version,
  role: status.role,
  startedAt: new Date(status.startedAtMs).toISOString(),
  links: [...status.links.values()].map((link) => linkReport(link, nowMs)),
  quarantined: Object.fromEntries(status.quarantined),
});

const linkReport = (link: LinkStatus, nowMs: number): LinkReport => ({
  peer: link.peer,
  state: link.state,
  since: new Date(link.sinceMs).toISOString(),
  lagSeconds: lagSeconds(link, nowMs),
  lagBytes: lagBytes(link),
  sourceLsn: lsnText(link.sourceLsn),
  receivedLsn: lsnText(link.receivedLsn),
  mergedLsn: lsnText(link.mergedLsn),
  confirmedLsn: lsnText(link.confirmedLsn),
  clockSkewMs: link.clockSkewMs,
  roundTripMs: link.roundTripMs,
  transactions: link.transactions,
  rows: link.rows,
  tombstones: link.tombstones,
  conflicts: [...link.conflicts.values()].flatMap((types) => [...types.values()]).reduce((a, b) => a + b, 0),
  errors: Object.fromEntries(link.errors),
  lastError: link.lastError,
  resyncs: link.resyncs,
  resync: link.resync,
  misfits: Object.fromEntries(link.misfits),
});
