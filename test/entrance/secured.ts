import { chmod, chown, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import { startServer, type Server } from "../../src/embedded/server.ts";
import { serverUser } from "../../src/embedded/server-user.ts";
import { selfSigned } from "./certificate.ts";

/** Where masters let anna in by TLS and SCRAM alone. */
export interface SecuredMasters extends AsyncDisposable {
  readonly near: Server;
  readonly far: Server;
  /** The certificate of both, and of who signed it. */
  readonly certificate: string;
  readonly certificateFile: string;
  /** In clear text and without a password, as the superuser. */
  readonly urls: Readonly<Record<"near" | "far", string>>;
}

export const password = "correct horse";

const hba = `
host    all postgres 127.0.0.1/32 trust
hostssl all anna     127.0.0.1/32 scram-sha-256
`;

const give = async (file: string, text: string): Promise<void> => {
  await writeFile(file, text, { mode: 0o600 });
  const { ids } = serverUser();
  if ("uid" in ids) await chown(file, ids.uid, ids.gid);
};

/** Two servers; `SHOW cluster_name` tells which one it is. */
export const startSecured = async (): Promise<SecuredMasters> => {
  const folder = await mkdtemp(join(tmpdir(), "coregent-entrance-"));
  await chmod(folder, 0o755);
  const { certificate, key } = selfSigned("localhost");
  const certificateFile = join(folder, "server.crt");
  await give(certificateFile, certificate);
  await chmod(certificateFile, 0o644);
  await give(join(folder, "server.key"), key);
  await give(join(folder, "hba.conf"), hba);
  const start = async (name: string): Promise<Server> => {
    const server = await startServer({
      dataDir: join(folder, name),
      fsync: false,
      removeWithUs: true,
      settings: {
        ssl: "on",
        ssl_cert_file: certificateFile,
        ssl_key_file: join(folder, "server.key"),
        hba_file: join(folder, "hba.conf"),
        cluster_name: name,
      },
    });
    const admin = new Client({ connectionString: server.url() });
    await admin.connect();
    await admin.query(`CREATE ROLE anna LOGIN PASSWORD '${password}'; GRANT CREATE ON SCHEMA public TO anna;
                       CREATE TABLE workouts (id int PRIMARY KEY, title text); ALTER TABLE workouts OWNER TO anna`);
    await admin.end();
    return server;
  };
  const [near, far] = await Promise.all([start("near"), start("far")]);
  return {
    near,
    far,
    certificate,
    certificateFile,
    urls: { near: near.url(), far: far.url() },
    [Symbol.asyncDispose]: async () => {
      await Promise.all([near.stop("immediate"), far.stop("immediate")]);
      await rm(folder, { recursive: true, force: true });
    },
  };
};
