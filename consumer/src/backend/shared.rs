//! What is the same on both databases apart from the driver's types.

/// Writes the reading of the rows of the library's own tables.
macro_rules! shared_rows {
    ($row:ty) => {
        pub(in super::super) fn consumer_id(row: &$row) -> Result<ConsumerId, sqlx::Error> {
            let name: String = row.try_get("consumer")?;
            Ok(ConsumerId::from_columns(name, row.try_get("version")?))
        }

        pub(in super::super) fn checkpoint(row: &$row) -> Result<Checkpoint, sqlx::Error> {
            let key = SegmentId {
                consumer: consumer_id(row)?,
                slice_from: row.try_get("slice_from")?,
            };
            checkpoint_of(row, key)
        }

        /// Reads a row whose key is known.
        pub(in super::super) fn checkpoint_of(
            row: &$row,
            key: SegmentId,
        ) -> Result<Checkpoint, sqlx::Error> {
            let attempts: i32 = row.try_get("attempts")?;
            Ok(Checkpoint {
                key,
                slice_to: row.try_get("slice_to")?,
                position: row.try_get("position")?,
                epoch: row.try_get("epoch")?,
                scope: row.try_get("scope")?,
                state: State::parse(row.try_get("state")?),
                replay_to: row.try_get("replay_to")?,
                hold_at: row.try_get("hold_at")?,
                attempts: u32::try_from(attempts).unwrap_or(0),
                failed_position: row.try_get("failed_position")?,
                error: row.try_get("error")?,
            })
        }

        /// The wait until the next attempt, if it is still to come.
        pub(in super::super) fn retry_in(row: &$row) -> Result<Option<Duration>, sqlx::Error> {
            let millis: Option<i64> = row.try_get("retry_in")?;
            Ok(millis
                .and_then(|millis| u64::try_from(millis).ok())
                .filter(|&millis| millis > 0)
                .map(Duration::from_millis))
        }

        pub(in super::super) fn aggregate(row: &$row) -> Result<Aggregate, sqlx::Error> {
            Ok((row.try_get(0)?, row.try_get(1)?))
        }

        pub(in super::super) fn row(row: &$row) -> Result<Row, sqlx::Error> {
            Ok(Row {
                checkpoint: checkpoint(row)?,
                retry_in: row.try_get("retry_in")?,
                saved_ago: row.try_get("saved_ago")?,
                parked: row.try_get("parked")?,
                parked_aggregates: row.try_get("parked_aggregates")?,
            })
        }

        pub(in super::super) fn parked_row(row: &$row) -> Result<ParkedRow, sqlx::Error> {
            Ok(ParkedRow {
                position: row.try_get("position")?,
                aggregate_type: row.try_get("aggregate_type")?,
                aggregate_id: row.try_get("aggregate_id")?,
                reason: row.try_get("reason")?,
                attempts: row.try_get("attempts")?,
                error: row.try_get("error")?,
                parked_ago: row.try_get("parked_ago")?,
            })
        }
    };
}
pub(super) use shared_rows;

/// Writes the part of `Operate` that is the same on both databases, apart from the text of the
/// statements and the type of the connection.
macro_rules! shared_operate {
    ($connection:ty) => {
        async fn rows(
            statements: &Statements,
            connection: &mut $connection,
        ) -> Result<Vec<Row>, sqlx::Error> {
            let rows = statements.rows.query().fetch_all(connection).await?;
            rows.iter().map(row).collect()
        }

        async fn count(
            statements: &Statements,
            connection: &mut $connection,
            part: Part<'_>,
            limit: i64,
        ) -> Result<i64, sqlx::Error> {
            let query = if part.scope.is_empty() {
                statements
                    .count
                    .scalar()
                    .bind(part.after)
                    .bind(part.up_to)
                    .bind(limit)
            } else {
                statements
                    .count_scope
                    .scalar()
                    .bind(part.after)
                    .bind(part.up_to)
                    .bind(limit)
                    .bind(part.scope_json())
            };
            query.fetch_one(connection).await
        }

        async fn age(
            statements: &Statements,
            connection: &mut $connection,
            part: Part<'_>,
        ) -> Result<Option<i64>, sqlx::Error> {
            let query = if part.scope.is_empty() {
                statements.age.scalar().bind(part.after).bind(part.up_to)
            } else {
                statements
                    .age_scope
                    .scalar()
                    .bind(part.after)
                    .bind(part.up_to)
                    .bind(part.scope_json())
            };
            query.fetch_optional(connection).await
        }

        async fn set_state(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
            state: State,
        ) -> Result<(), sqlx::Error> {
            statements
                .set_state
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .bind(state.as_str())
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn arm(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
        ) -> Result<(), sqlx::Error> {
            statements
                .arm
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn rewind(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
            scope: Option<&str>,
        ) -> Result<(), sqlx::Error> {
            statements
                .rewind
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .bind(scope)
                .execute(&mut *connection)
                .await?;
            statements
                .forget_parked
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn set_scope(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
            scope: &str,
        ) -> Result<(), sqlx::Error> {
            statements
                .set_scope
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .bind(scope)
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn parked(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
        ) -> Result<Vec<ParkedRow>, sqlx::Error> {
            let rows = statements
                .parked
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .fetch_all(connection)
                .await?;
            rows.iter().map(parked_row).collect()
        }

        async fn unpark(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
            position: i64,
        ) -> Result<bool, sqlx::Error> {
            let removed = statements
                .unpark
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .bind(position)
                .execute(connection)
                .await?;
            Ok(removed.rows_affected() == 1)
        }

        async fn blame(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
            position: i64,
            error: &str,
        ) -> Result<(), sqlx::Error> {
            statements
                .blame
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .bind(position)
                .bind(error.replace('\0', "\u{fffd}"))
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn forget(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
        ) -> Result<(), sqlx::Error> {
            for statement in [
                &statements.forget_parked,
                &statements.forget_active,
                &statements.forget,
            ] {
                statement
                    .query()
                    .bind(&*of.name)
                    .bind(of.version_column())
                    .execute(&mut *connection)
                    .await?;
            }
            Ok(())
        }

        async fn active(
            statements: &Statements,
            connection: &mut $connection,
        ) -> Result<Vec<ConsumerId>, sqlx::Error> {
            let rows = statements.active.query().fetch_all(connection).await?;
            rows.iter().map(consumer_id).collect()
        }

        async fn activate(
            statements: &Statements,
            connection: &mut $connection,
            of: &ConsumerId,
        ) -> Result<(), sqlx::Error> {
            statements
                .activate
                .query()
                .bind(&*of.name)
                .bind(of.version_column())
                .execute(connection)
                .await?;
            Ok(())
        }
    };
}
pub(super) use shared_operate;
