//! `registry token`: programs that may use the registry.

use std::time::Duration;

use clap::Subcommand;
use registry::{AccountName, Expiry, Operator, RobotInfo, Time};
use serde_json::json;

use super::accounts::{GrantArgs, rights, texts};
use super::config::duration;
use super::storage::{Absent, StorageArgs, act};
use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// Make, list and revoke tokens for programs
///
/// A program logs in with the token's name as its user and the token as its password, which is no
/// person's. The registry keeps only a hash of it.
#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make a token and print it, which happens this once
#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// What the token is called, for instance after the program that has it
    name: AccountName,
    #[command(flatten)]
    grants: GrantArgs,
    /// How long it is good: `12h`, `90d` or `never`
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Expiry,
    #[command(flatten)]
    storage: StorageArgs,
}

/// List the tokens that were not revoked
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: StorageArgs,
}

/// Make a token worth nothing at once
#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// What the token is called
    name: AccountName,
    #[command(flatten)]
    storage: StorageArgs,
}

pub(super) fn run(context: &Context, args: TokenArgs) -> Result<(), CommandError> {
    match args.command {
        TokenCommand::Create(CreateArgs { name, grants: GrantArgs { grants }, expires, storage }) => {
            let (robot, given) = (name.clone(), rights(&grants));
            let create = async |operator: Operator| Ok(operator.add_robot(name, grants, expires).await?);
            let token = act(context, &storage, Absent::Made, create)?;
            text::say(format_args!("{robot}: {given}. The token, which is shown only now:"));
            text::result(token.reveal());
            Ok(())
        }
        TokenCommand::List(args) => list(context, &args),
        TokenCommand::Revoke(RevokeArgs { name, storage }) => {
            let robot = name.clone();
            let revoke = async |operator: Operator| Ok(operator.revoke_robot(name).await?);
            act(context, &storage, Absent::Error, revoke)?;
            text::say(format_args!("The token {robot} is worth nothing any more."));
            Ok(())
        }
    }
}

fn list(context: &Context, args: &ListArgs) -> Result<(), CommandError> {
    let robots = act(context, &args.storage, Absent::Error, async |operator| Ok(operator.robots().await?))?;
    if args.json {
        let row = |robot: &RobotInfo| {
            json!({ "name": robot.name, "grants": texts(&robot.grants), "created": robot.created,
                "expires": robot.expires, "expired": robot.is_expired })
        };
        text::json(&robots.iter().map(row).collect());
        return Ok(());
    }
    if robots.is_empty() {
        text::say("No tokens here; `hull registry token create` makes one.");
        return Ok(());
    }
    let row = |robot: RobotInfo| {
        let expires = match (robot.is_expired, robot.expires) {
            (_, None) => "never".to_owned(),
            (true, Some(time)) => format!("{}, which is past", day(time)),
            (false, Some(time)) => day(time),
        };
        vec![robot.name.to_string(), rights(&robot.grants), day(robot.created), expires]
    };
    text::table(&["TOKEN", "RIGHTS", "CREATED", "EXPIRES"], robots.into_iter().map(row).collect());
    Ok(())
}

fn day(time: Time) -> String {
    vm_runner::day_of(time.as_secs()).to_string()
}

fn expiry(text: &str) -> Result<Expiry, String> {
    // Times of tokens are kept in seconds.
    let life = |text| duration(text).filter(|life| *life >= Duration::from_secs(1));
    match text {
        "never" => Ok(Expiry::Never),
        text => life(text)
            .map(Expiry::After)
            .ok_or_else(|| "expected a time such as `12h` or `90d`, or `never`".to_owned()),
    }
}
