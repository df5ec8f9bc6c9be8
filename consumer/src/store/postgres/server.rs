//! Which servers the library can rest on.

use sqlx::{PgConnection, Row, raw_sql};

use crate::store::StoreError;

const VERSION: &str =
    "SELECT current_setting('server_version_num')::int, current_setting('server_version')";

/// Refuses a server on which events could be lost.
///
/// Before these releases the locks of a transaction changed hands while it was prepared: for a moment
/// nobody seemed to hold the sequence that it had drawn from.
pub(crate) async fn refuse_old_server(connection: &mut PgConnection) -> Result<(), StoreError> {
    let row = raw_sql(VERSION).fetch_one(connection).await?;
    if is_sound(row.try_get(0)?) {
        return Ok(());
    }
    let found = row.try_get(1)?;
    Err(StoreError::ServerTooOld { found })
}

/// Takes a version as `server_version_num` has it.
fn is_sound(version: i32) -> bool {
    const V13_5: i32 = 130_005;
    const V14_0: i32 = 140_000;
    version >= V13_5 && version != V14_0
}

#[cfg(test)]
mod tests {
    use super::is_sound;

    #[test]
    fn a_server_is_sound_from_13_5_on_but_for_14_0() {
        for version in [90_624, 120_022, 130_000, 130_004, 140_000] {
            assert!(!is_sound(version), "{version}");
        }
        for version in [130_005, 130_023, 140_001, 150_000, 180_001] {
            assert!(is_sound(version), "{version}");
        }
    }
}
