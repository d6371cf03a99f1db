/**
 * Runs a statement of PL/pgSQL at COMMIT, of merges too, for each row that was inserted of which `when` is true.
 * @param when over NEW
 */
export const atCommit = (table: string, when: string, statement: string): string => `
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${statement}; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ${table} DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION at_commit();
ALTER TABLE ${table} ENABLE ALWAYS TRIGGER at_commit`;

/** Has table `t` refuse such transactions. */
export const refusingAtCommit = (when: string, sqlState = "P0001"): string =>
  atCommit("t", when, `RAISE 'refused' USING ERRCODE = '${sqlState}'`);
