//! Accounts and sessions.
//!
//! - Sessions are only in the cache: they end after an idle time, and at the latest after a day. A logout invalidates, so
//!   a session that has ended does not come back on another instance.
//! - Profiles are read through. A change answers with a token for a cookie: whoever has it sees the change on every
//!   instance.
//! - A profile and the preferences of its user are two caches. A page needs one of them, and each changes on its own:
//!   with one value for both, a changed theme would also throw the name away. A field of a value is no unit that a cache
//!   could invalidate.
//! - Hashes of passwords are read from the database at each login, and are part of no cached type.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures::FutureExt;
use larder::{Cache, Token};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::service::db::Db;
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::values::{Found, Load, Values};
use crate::service::{Service, Way};

/// How long a session is kept without a request, and in all.
const IDLE: Duration = Duration::from_secs(30 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many accounts there are at first: `user-1` and so on, all with this password.
pub(crate) const USERS: u64 = 1000;
pub(crate) const PASSWORD: &str = "tea";
/// The answer to a logout that is deferred.
pub(crate) const LATER: &str = "the session ends as soon as sessions can be written";
/// The header in which a caller names the writes that it has seen.
pub(crate) const SEEN: &str = "x-seen";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS account (
        id INTEGER PRIMARY KEY, login TEXT UNIQUE NOT NULL, password TEXT NOT NULL,
        name TEXT NOT NULL, theme TEXT NOT NULL DEFAULT 'light'
    ) STRICT;
    CREATE TABLE IF NOT EXISTS session (id TEXT PRIMARY KEY, account INTEGER NOT NULL) STRICT;";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) id: u64,
    pub(crate) name: String,
}

/// The answer to a login.
#[derive(Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) session: String,
    pub(crate) user: u64,
}

/// The answer to a change: the token of it, for the client to name later.
#[derive(Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) seen: Option<String>,
}

struct Users {
    db: Db,
    sessions: Sessions,
    profiles: Values<Profile>,
    themes: Values<String>,
}

/// The accounts of the sessions.
enum Sessions {
    Cache(Cache<String, u64>),
    /// Without the crate they are rows.
    Table(Db),
}

pub(crate) async fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let db = service.database(SCHEMA).await?;
    seed(&db).await?;
    let sessions = if service.setup.way == Way::Larder {
        let cache = service.caches.cache("session");
        let cache = cache.sliding(IDLE).l2_ttl(DAY).build()?;
        service.watch.cache(&cache);
        Sessions::Cache(cache)
    } else {
        Sessions::Table(db.clone())
    };
    let (of_profiles, of_themes) = (db.clone(), db.clone());
    let profile: Load<Profile> = Arc::new(move |id| profile(of_profiles.clone(), id).boxed());
    let theme: Load<String> = Arc::new(move |id| theme(of_themes.clone(), id).boxed());
    let users = Users {
        db,
        sessions,
        profiles: Values::new(service, "profile", profile, |cache| cache)?,
        themes: Values::new(service, "theme", theme, |cache| cache)?,
    };
    Ok(Router::new()
        .route("/sessions", post(log_in))
        .route("/sessions/{id}", get(who_is).delete(log_out))
        .route("/users/{id}", get(show))
        .route("/users/{id}/name", put(rename))
        .route("/users/{id}/theme", get(show_theme).put(set_theme))
        .with_state(Arc::new(users)))
}

/// Cheap, as the shop is to show caches, and not how long a login takes. A real service takes the defaults.
fn hasher() -> Argon2<'static> {
    let params = Params::new(8, 1, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

async fn seed(db: &Db) -> Result<(), Trouble> {
    let salt = SaltString::encode_b64(b"the shop's own").map_err(|error| error.to_string())?;
    let hash = hasher().hash_password(PASSWORD.as_bytes(), &salt);
    let hash = hash.map_err(|error| error.to_string())?.to_string();
    db.write(move |tx| {
        let mut insert = tx.prepare(
            "INSERT OR IGNORE INTO account (id, login, password, name) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for id in 1..=USERS {
            insert.execute((id, format!("user-{id}"), &hash, format!("User {id}")))?;
        }
        Ok::<_, rusqlite::Error>(())
    })
    .await?;
    Ok(())
}

async fn profile(db: Db, id: u64) -> Result<Profile, Failure> {
    let query = "SELECT name FROM account WHERE id = ?1";
    let name = db.read(move |db| db.query_row(query, [id], |row| row.get(0)).optional());
    let name = name.await?.ok_or_else(|| Failure::not_found("user"))?;
    Ok(Profile { id, name })
}

async fn theme(db: Db, id: u64) -> Result<String, Failure> {
    let query = "SELECT theme FROM account WHERE id = ?1";
    let theme = db.read(move |db| db.query_row(query, [id], |row| row.get(0)).optional());
    theme.await?.ok_or_else(|| Failure::not_found("user"))
}

#[derive(Serialize, Deserialize)]
pub(crate) struct LogIn {
    login: String,
    password: String,
}

async fn log_in(
    State(users): State<Arc<Users>>,
    Json(given): Json<LogIn>,
) -> Answer<Json<Session>> {
    let query = "SELECT id, password FROM account WHERE login = ?1";
    let row = users.db.read(move |db| {
        let found = db.query_row(query, [given.login], |row| {
            Ok((row.get::<_, u64>(0)?, row.get::<_, String>(1)?))
        });
        found.optional()
    });
    let wrong = || {
        Failure::new(
            StatusCode::UNAUTHORIZED,
            "the name or the password is wrong",
        )
    };
    let (account, hash) = row.await?.ok_or_else(wrong)?;
    let hash = PasswordHash::new(&hash).map_err(|_| wrong())?;
    hasher()
        .verify_password(given.password.as_bytes(), &hash)
        .map_err(|_| wrong())?;
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let id = format!("{:032x}", u128::from_le_bytes(random));
    match &users.sessions {
        // A session that is not stored is none, so a deferred insert is an error here.
        Sessions::Cache(cache) => _ = cache.insert(&id, account).await?,
        Sessions::Table(db) => {
            let id = id.clone();
            let insert = "INSERT INTO session (id, account) VALUES (?1, ?2)";
            db.write(move |tx| tx.execute(insert, (id, account)))
                .await?;
        }
    }
    Ok(Json(Session {
        session: id,
        user: account,
    }))
}

async fn who_is(State(users): State<Arc<Users>>, Path(id): Path<String>) -> Answer<Json<u64>> {
    let account = match &users.sessions {
        Sessions::Cache(cache) => match cache.get(&id).await {
            Some(account) => Some(*account),
            // Only the cache has sessions. Nobody is signed out because it is off, or Redis away.
            None if !cache.is_enabled() || !cache.health().is_l2_up() => {
                let text = "sessions cannot be read for now";
                return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, text));
            }
            None => None,
        },
        Sessions::Table(db) => {
            let query = "SELECT account FROM session WHERE id = ?1";
            db.read(move |db| db.query_row(query, [id], |row| row.get(0)).optional())
                .await?
        }
    };
    let account = account.ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "log in first"));
    Ok(Json(account?))
}

async fn log_out(State(users): State<Arc<Users>>, Path(id): Path<String>) -> Answer<StatusCode> {
    match &users.sessions {
        Sessions::Cache(cache) => match cache.invalidate_and_wait(&id).await {
            // No success: until the other instances know, the session may go on there.
            Err(error) if error.is_deferred() => {
                return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, LATER));
            }
            done => _ = done?,
        },
        Sessions::Table(db) => {
            db.write(move |tx| tx.execute("DELETE FROM session WHERE id = ?1", [id]))
                .await?;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn show(
    State(users): State<Arc<Users>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Answer<Json<Found<Profile>>> {
    let seen = headers.get(SEEN).and_then(|seen| seen.to_str().ok());
    // A token that cannot be read is one of an older release: as without one.
    let seen: Option<Token> = seen.and_then(|seen| seen.parse().ok());
    Ok(Json(users.profiles.get_at_least(id, seen.as_ref()).await?))
}

/// Answers with the token of the change.
async fn rename(
    State(users): State<Arc<Users>>,
    Path(id): Path<u64>,
    Json(name): Json<String>,
) -> Answer<Json<Changed>> {
    let update = "UPDATE account SET name = ?2 WHERE id = ?1";
    users
        .db
        .write(move |tx| tx.execute(update, (id, name)))
        .await?;
    let token = users.profiles.changed(id).await?;
    let seen = token.map(|token| token.to_string());
    Ok(Json(Changed { seen }))
}

async fn show_theme(
    State(users): State<Arc<Users>>,
    Path(id): Path<u64>,
) -> Answer<Json<Found<String>>> {
    Ok(Json(users.themes.get(id).await?))
}

async fn set_theme(
    State(users): State<Arc<Users>>,
    Path(id): Path<u64>,
    Json(theme): Json<String>,
) -> Answer<StatusCode> {
    let update = "UPDATE account SET theme = ?2 WHERE id = ?1";
    users
        .db
        .write(move |tx| tx.execute(update, (id, theme)))
        .await?;
    users.themes.changed(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
