import type { Logger } from "pino";
import type { Region, Topology } from "../../regions/topology.ts";
import type { AgentStatus } from "../replication/status.ts";
import { type AgentContext, defaultLimits, type RegionAddress } from "../replication/wiring.ts";
import { version } from "../version.ts";
import type { CliContext } from "./context.ts";

const addressOf = (region: Region): RegionAddress => ({
  name: region.name,
  id: region.id,
  url: region.postgres.reveal(),
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
  { topology, logger }: { readonly topology: () => Topology; readonly logger: Logger },
): AgentContext => ({
  cluster: topology().cluster,
  region: addressOf(region),
  status: newAgentStatus(topology(), region, clock.now()),
  logger: logger.child({ region: region.name }),
  clock,
  random,
  limits: defaultLimits,
  topology: () => {
    const { regions } = topology();
    return {
      regionIds: regions.map(({ id }) => id),
      peers: regions.filter(({ id }) => id !== region.id).map(addressOf),
    };
  },
});
