const octet = String.raw`(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`;
const pattern = new RegExp(`^(?:localhost|::1|\\[::1\\]|127(?:\\.${octet}){3})$`);

/** Whether a host names this machine and nothing else, as a name or an address (of IPv6 with or without brackets). */
export const isLoopback = (host: string): boolean => pattern.test(host);
