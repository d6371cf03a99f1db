import { byDistance } from "../../regions/distance.ts";
import { hostPort, type HostPort, type Region, type Topology } from "../../regions/topology.ts";
import { defaultEntranceBounds } from "./bounds.ts";
import { masterAddress } from "./masters.ts";

const firstPort = 6432;

/** Where HAProxy listens for a region's clients: at its entrance, else on a port of loopback in the order of the file. */
export const haproxyBind = (topology: Topology, region: Region): HostPort =>
  region.entrance ?? { host: "127.0.0.1", port: firstPort + topology.regions.indexOf(region) };

/**
 * A configuration for HAProxy 2.4 or later that does what the entrances of these regions do: the region's own master
 * while its agent says that it takes writes, else the nearest that does.
 */
export const haproxyConfig = (topology: Topology, regions: readonly Region[]): string =>
  [preamble(topology), ...regions.map((region) => section(topology, region))].join("\n");

const preamble = ({ cluster }: Topology): string => {
  const { maxSessions, attemptMs, keepAliveMs } = defaultEntranceBounds;
  return `# PostgreSQL entrances of the cluster ${cluster}, made by \`coregent haproxy-config\`.
# Each agent must be reachable from here at its api address; \`coregent agent --listen\` opens it.
# An agent that is down counts as a master that is down. Names after "addr" are looked up when HAProxy starts.

global
    log stdout format raw local0 notice
    maxconn ${2 * maxSessions}

defaults
    mode tcp
    log global
    option tcplog
    option dontlognull
    option clitcpka
    option srvtcpka
    clitcpka-idle ${keepAliveMs}ms
    srvtcpka-idle ${keepAliveMs}ms
    timeout connect ${attemptMs}ms
    # A session may be idle for long; a line that is dead is noticed by keepalive.
    timeout client 24h
    timeout server 24h
    retries 2
    maxconn ${maxSessions}
`;
};

const section = (topology: Topology, region: Region): string => {
  const { probeMs, probeTimeoutMs, failuresToDown, successesToUp } = topology.writer;
  const servers = [region, ...byDistance(region, topology.regions).filter((other) => other !== region)];
  const defaults = [
    `inter ${probeMs}ms fall ${failuresToDown} rise ${successesToUp}`,
    // Connections that fail count too, so that a dead master is known before its next checks.
    `observe layer4 error-limit ${failuresToDown} on-error mark-down`,
    "on-marked-down shutdown-sessions init-addr last,libc,none",
  ];
  return `listen postgres-${region.name}
    bind ${hostPort(haproxyBind(topology, region))}
    timeout check ${probeTimeoutMs}ms
    option httpchk
    http-check send meth OPTIONS uri /primary ver HTTP/1.1 hdr Host coregent
    http-check expect status 200
    default-server ${defaults.join(" ")}
${servers.map((server, i) => `    ${serverLine(server)}${i === 0 ? "" : " backup"}\n`).join("")}`;
};

const serverLine = (region: Region): string => {
  const { host, port } = masterAddress(region.postgres.reveal());
  const address = host.startsWith("/") ? `unix@${host}/.s.PGSQL.${port}` : hostPort({ host, port });
  const api = new URL(region.api);
  const secured = api.protocol === "https:";
  const apiHost = api.hostname.replace(/^\[|\]$/g, "");
  const apiPort = api.port === "" ? (secured ? 443 : 80) : api.port;
  const where = apiHost === host ? "" : ` addr ${api.hostname}`;
  const tls = secured ? ` check-ssl check-sni ${apiHost} verify required ca-file @system-ca` : "";
  return `server ${region.name} ${address} check${where} port ${apiPort}${tls}`;
};
