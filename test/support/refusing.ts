/**
 * Has table `t` refuse at COMMIT, to merges too, the transactions that have inserted rows of which `when` is true.
 * @param when over NEW
 */
export const refusingAtCommit = (when: string, sqlState = "P0001"): string => `
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN RAISE 'refused' USING ERRCODE = '${sqlState}'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION refuse();
ALTER TABLE t ENABLE ALWAYS TRIGGER refuse`;
