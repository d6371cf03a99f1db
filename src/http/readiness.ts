import type { AgentStatus } from "../replication/status.ts";

/** One thing that keeps the agent from being ready, and a code that does not change with the wording. */
export interface Reason {
  readonly code: "starting" | "standby" | "stopping" | "database_unreachable" | "link_stopped";
  readonly message: string;
}

/**
 * Ready means: this agent is the one that works for its region, it reaches the region's own database, and no
 * link has stopped for good. A peer that is away does NOT make a region unready: each region goes on by itself
 * while any number of the others is gone, so a probe that failed then would take down what still works.
 */
export const notReadyReasons = (status: AgentStatus, databaseError: string | null): Reason[] => {
  const reasons: Reason[] = [];
  const byRole = roleReason(status);
  if (byRole !== null) {
    reasons.push(byRole);
  }
  if (databaseError !== null) {
    reasons.push({
      code: "database_unreachable",
      message: `the database of ${status.region} cannot be reached: ${databaseError}`,
    });
  }
  if (status.role === "active") {
    for (const link of status.links.values()) {
      if (link.state === "stopped") {
        reasons.push({
          code: "link_stopped",
          message: `the link from ${link.peer} has stopped: ${link.lastError ?? "no reason was recorded"}`,
        });
      }
    }
  }
  return reasons;
};

const roleReason = (status: AgentStatus): Reason | null => {
  switch (status.role) {
    case "active":
      return null;
    case "starting":
      return { code: "starting", message: "the agent is starting" };
    case "standby":
      return { code: "standby", message: `another agent works for ${status.region}; this one waits` };
    case "stopping":
      return { code: "stopping", message: "the agent is draining and will end" };
    default:
      return status.role satisfies never;
  }
};
