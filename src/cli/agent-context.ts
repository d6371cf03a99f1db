import type { Logger } from "pino";
import type { Region, Topology } from "../../regions/topology.ts";
import { directLine, type Line } from "../postgres/line.ts";
import type { AgentStatus } from "../replication/status.ts";
import { type AgentContext, defaultLimits, type RegionAddress } from "../replication/wiring.ts";
import { version } from "../version.ts";
import type { CliContext } from "./context.ts";

type LineTo = (region: string) => Line;

const addressOf = (region: Region, lineTo: LineTo): RegionAddress => ({
  name: region.name,
  id: region.id,
  url: region.postgres.reveal(),
  line: lineTo(region.name),
});

const newAgentStatus = (topology: Topology, region: Region, nowMs: number): AgentStatus => ({
  region: region.name,
  regionId: region.id,
  cluster: topology.cluster,
  version,
  role: "starting",
  startedAtMs: nowMs,
  links: new Map(),
  quarantined: new Map(),
  slots: [],
});

/** What an agent of `region` is made from; `topology` is asked anew whenever its peers matter. */
export const agentContext = (
  { clock, random }: Pick<CliContext, "clock" | "random">,
  region: Region,
  {
    topology,
    logger,
    lineTo = () => directLine,
  }: { readonly topology: () => Topology; readonly logger: Logger; readonly lineTo?: LineTo },
): AgentContext => ({
  cluster: topology().cluster,
  region: addressOf(region, lineTo),
  status: newAgentStatus(topology(), region, clock.now()),
  logger: logger.child({ region: region.name }),
  clock,
  random,
  limits: defaultLimits,
  topology: () => {
    const { regions } = topology();
    return {
      regionIds: regions.map(({ id }) => id),
      peers: regions.filter(({ id }) => id !== region.id).map((peer) => addressOf(peer, lineTo)),
    };
  },
});
