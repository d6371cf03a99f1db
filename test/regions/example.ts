/** A configuration with everything in it; its one variable is MOLDOVA_PASSWORD. */
export const exampleYaml = `cluster: weightbook
regions:
  - name: moldova
    id: 1
    latitude: 47.01
    longitude: 28.86
    postgres: postgres://app:\${MOLDOVA_PASSWORD}@moldova.example:5432/weightbook
    api: http://127.0.0.1:8080
  - name: argentina
    id: 2
    latitude: -34.6
    longitude: -58.38
    postgres: postgres://app:tango@argentina.example:5432/weightbook
    api: http://127.0.0.1:8081/
schemas: [public, Training]
tables:
  - name: public.workouts
    owner: home_region
    failover: provisional
    conflict: latest
  - name: Training."Set.entries"
`;

export const exampleEnv = { MOLDOVA_PASSWORD: "s3cr3t-canary" };
