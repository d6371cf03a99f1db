/** What the bench needs of a server, whoever has started it. */
export interface BenchServer {
  readonly port: number;
  /** Of the postmaster; null while it does not run. */
  readonly pid: number | null;
  readonly logFile: string;
  url(database?: string): string;
}
