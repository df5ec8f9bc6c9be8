//! Faults on Postgres: a trigger on every table, gone when the savepoint rolls back.

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::raw_sql;

use crate::backend::faults::Faults;

const ARM: &str = "
CREATE FUNCTION pg_temp.consumer_fault() RETURNS trigger LANGUAGE plpgsql AS $consumer$
DECLARE number int := current_setting('consumer.writes')::int + 1;
BEGIN
    PERFORM set_config('consumer.writes', number::text, true);
    IF number = current_setting('consumer.fault')::int THEN
        RAISE EXCEPTION 'the test made this change fail';
    END IF;
    RETURN coalesce(NEW, OLD);
END $consumer$;

DO $consumer$
DECLARE target text;
BEGIN
    PERFORM set_config('consumer.writes', '0', true);
    FOR target IN
        SELECT format('%I.%I', n.nspname, c.relname)
          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname <> 'information_schema'
           AND (n.nspname NOT LIKE 'pg\\_%' OR n.oid = pg_my_temp_schema())
    LOOP
        EXECUTE format('CREATE TRIGGER consumer_fault BEFORE INSERT OR UPDATE OR DELETE ON %s
                        FOR EACH ROW EXECUTE FUNCTION pg_temp.consumer_fault()', target);
    END LOOP;
END $consumer$;
";

impl Faults for Postgres {
    async fn arm_fault(connection: &mut PgConnection, write: u32) -> Result<(), sqlx::Error> {
        raw_sql(ARM).execute(&mut *connection).await?;
        sqlx::query("SELECT set_config('consumer.fault', $1, true)")
            .bind(write.to_string())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn fault_was_reached(
        connection: &mut PgConnection,
        write: u32,
    ) -> Result<bool, sqlx::Error> {
        let writes: i32 = sqlx::query_scalar("SELECT current_setting('consumer.writes')::int")
            .fetch_one(connection)
            .await?;
        Ok(u32::try_from(writes).is_ok_and(|writes| writes >= write))
    }
}
