import { type TSchema, Type } from "typebox";

/** What the agent's own addresses answer, as the API's description shows it. */

const maybe = <T extends TSchema>(type: T) => Type.Union([type, Type.Null()]);
const counts = (description: string) => Type.Record(Type.String(), Type.Integer(), { description });
const lsn = Type.String({ description: "A WAL position, such as 16/B374D848." });
const time = Type.String({ format: "date-time" });
const role = Type.Enum(["starting", "standby", "active", "stopping"]);

export const Alive = Type.Object({ status: Type.Literal("ok"), region: Type.String() });

export const Readiness = Type.Object({
  status: Type.Enum(["ready", "not ready"]),
  region: Type.String(),
  role,
  reasons: Type.Array(
    Type.Object({ code: Type.String({ description: "Stable." }), message: Type.String() }),
    { description: "What keeps it from being ready." },
  ),
});

const Link = Type.Object({
  peer: Type.String(),
  state: Type.Enum(["connecting", "resyncing", "streaming", "waiting", "stopped"]),
  since: time,
  lagSeconds: Type.Number(),
  lagBytes: Type.Integer(),
  sourceLsn: lsn,
  receivedLsn: lsn,
  mergedLsn: lsn,
  confirmedLsn: lsn,
  clockSkewMs: Type.Number(),
  roundTripMs: Type.Number(),
  transactions: Type.Integer(),
  rows: Type.Integer(),
  tombstones: Type.Integer(),
  conflicts: Type.Integer(),
  errors: counts("By SQLSTATE or kind."),
  lastError: maybe(Type.String()),
  resyncs: Type.Integer(),
  resync: maybe(Type.Object({ table: Type.String(), rowsDone: Type.Integer(), rowsTotal: Type.Integer() })),
  misfits: Type.Record(Type.String(), Type.String(), {
    description: "Tables of the peer that do not fit here, with the reason.",
  }),
});

export const Report = Type.Object({
  cluster: Type.String(),
  region: Type.String(),
  regionId: Type.Integer(),
  version: Type.String(),
  role,
  startedAt: time,
  links: Type.Array(Link, { description: "From each other region." }),
  quarantined: counts("Changes that could not be merged, by table."),
});

export const Figures = {
  description: "In Prometheus' text format.",
  content: { "text/plain": { schema: Type.String() } },
};

/** With the names that Patroni gives. Members of PostgreSQL's are absent where it does not answer. */
export const PatroniState = Type.Object({
  state: Type.Enum(["running", "unknown"]),
  role: Type.Enum(["primary", "replica"]),
  postmaster_start_time: Type.Optional(Type.String()),
  server_version: Type.Optional(Type.Integer()),
  xlog: Type.Optional(Type.Record(Type.String(), maybe(Type.Integer()))),
  timeline: Type.Optional(maybe(Type.Integer())),
  database_system_identifier: Type.Optional(Type.String()),
  patroni: Type.Object({ version: Type.String(), scope: Type.String(), name: Type.String() }),
  coregent: Type.Object({
    lag_seconds: maybe(Type.Number()),
    lag_bytes: maybe(Type.Number()),
    drained: Type.Boolean(),
    fenced: maybe(Type.String({ description: "Why it takes no writes." })),
  }),
});

/** Where a write goes. */
export const RouteAnswer = Type.Object({
  table: Type.String(),
  key: maybe(Type.Array(Type.String())),
  owner: maybe(Type.String({ description: "The row's; null: nobody, or it is not known here." })),
  ownerColumn: maybe(Type.String()),
  route: Type.Enum(["owner", "nearest"]),
  failover: Type.Enum(["takeover", "provisional"]),
  target: maybe(Type.String({ description: "null: nowhere." })),
  takeover: Type.Boolean(),
  regions: Type.Array(
    Type.Object({
      region: Type.String(),
      choice: Type.Enum(["owner", "here", "nearest", "suspect", "overextended", "drained", "fenced", "down"]),
      candidate: Type.Boolean({ description: "Whether it may be written to." }),
      takeover: Type.Boolean(),
      because: Type.String(),
    }),
    { description: "Every region, best first." },
  ),
});

export const NearestAnswer = Type.Object({
  place: Type.Object({
    latitude: Type.Number(),
    longitude: Type.Number(),
    by: Type.Enum(["query", "header", "region"], { description: "Where it is known from." }),
  }),
  regions: Type.Array(
    Type.Object({
      region: Type.String(),
      km: Type.Integer(),
      healthy: Type.Boolean(),
      api: maybe(Type.String()),
    }),
    { description: "Best first." },
  ),
});
