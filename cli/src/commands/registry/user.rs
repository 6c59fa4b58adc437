//! `registry user`: people who may use the registry.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use registry::{AccountName, Grant, Operator, Secret};
use serde_json::json;

use super::accounts::{GrantArgs, rights, texts};
use super::storage::{Absent, StorageArgs, act};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::prompt::{ask_secret, read_line};
use crate::text;

/// Add, change and list the people who may use a registry
///
/// Until there is an account, whoever reaches the registry may do everything. What is changed is true at
/// once, also while a server runs.
#[derive(Debug, clap::Args)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    Add(AddArgs),
    Passwd(PasswdArgs),
    Grant(SetGrantsArgs),
    Rm(RmArgs),
    List(ListArgs),
    ImportHtpasswd(ImportArgs),
}

/// Add a user
///
/// Asks for the password; where there is no terminal to ask at, makes one up and shows it.
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The user
    name: AccountName,
    #[command(flatten)]
    grants: GrantArgs,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    storage: StorageArgs,
}

/// Give a user another password
///
/// Logins with the old one end at once. Asks for the new one; where there is no terminal to ask at, makes
/// one up and shows it.
#[derive(Debug, clap::Args)]
struct PasswdArgs {
    /// The user
    name: AccountName,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    storage: StorageArgs,
}

/// Give a user other rights instead of those they have
#[derive(Debug, clap::Args)]
struct SetGrantsArgs {
    /// The user
    name: AccountName,
    /// What they may do where: `team:pull,push`, `*:pull`, `team/web:admin`. A prefix means all below it, too
    #[arg(value_name = "PREFIX:ACTIONS", required = true)]
    grants: Vec<Grant>,
    #[command(flatten)]
    storage: StorageArgs,
}

/// Remove a user, who is out at once
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// The user
    name: AccountName,
    #[command(flatten)]
    storage: StorageArgs,
}

/// List the users and what they may do
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: StorageArgs,
}

/// Add the users of an htpasswd file
///
/// Their passwords stay as they are. Only bcrypt (`htpasswd -B`) is taken over; a file with anything else is
/// refused whole. Users who are here already stay as they are.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    grants: GrantArgs,
    #[command(flatten)]
    storage: StorageArgs,
}

/// Where a password comes from.
#[derive(Debug, clap::Args)]
struct PasswordArgs {
    /// Read the password from stdin
    #[arg(long)]
    password_stdin: bool,
}

pub(super) fn run(context: &Context, args: UserArgs) -> Result<(), CommandError> {
    match args.command {
        UserCommand::Add(args) => add(context, args),
        UserCommand::Passwd(args) => passwd(context, args),
        UserCommand::Grant(SetGrantsArgs { name, grants, storage }) => {
            let (user, given) = (name.clone(), rights(&grants));
            let set = async |operator: Operator| Ok(operator.set_grants(name, grants).await?);
            act(context, &storage, Absent::Error, set)?;
            text::say(format_args!("{user} may now: {given}"));
            Ok(())
        }
        UserCommand::Rm(RmArgs { name, storage }) => {
            let user = name.clone();
            let remove = async |operator: Operator| Ok(operator.remove_user(name).await?);
            act(context, &storage, Absent::Error, remove)?;
            text::say(format_args!("{user} is out."));
            Ok(())
        }
        UserCommand::List(args) => list(context, &args),
        UserCommand::ImportHtpasswd(args) => import(context, args),
    }
}

fn add(context: &Context, args: AddArgs) -> Result<(), CommandError> {
    let AddArgs { name, grants: GrantArgs { grants }, password, storage } = args;
    let password = password.get()?;
    let (user, given, chosen) = (name.clone(), rights(&grants), password.secret.clone());
    act(context, &storage, Absent::Made, async |operator| {
        Ok(operator.add_user(name, chosen, grants).await?)
    })?;
    password.show();
    text::say(format_args!("Added {user}: {given}"));
    Ok(())
}

fn passwd(context: &Context, args: PasswdArgs) -> Result<(), CommandError> {
    let PasswdArgs { name, password, storage } = args;
    let password = password.get()?;
    let (user, chosen) = (name.clone(), password.secret.clone());
    act(context, &storage, Absent::Error, async |operator| Ok(operator.set_password(name, chosen).await?))?;
    password.show();
    text::say(format_args!("{user} has another password."));
    Ok(())
}

fn list(context: &Context, args: &ListArgs) -> Result<(), CommandError> {
    let users = act(context, &args.storage, Absent::Error, async |operator| Ok(operator.users().await?))?;
    if args.json {
        let row = |user: &registry::UserInfo| json!({ "name": user.name, "grants": texts(&user.grants) });
        text::json(&users.iter().map(row).collect());
        return Ok(());
    }
    if users.is_empty() {
        text::say("No users here; `hull registry user add` adds one.");
        return Ok(());
    }
    let row = |user: registry::UserInfo| vec![user.name.to_string(), rights(&user.grants)];
    text::table(&["USER", "RIGHTS"], users.into_iter().map(row).collect());
    Ok(())
}

fn import(context: &Context, args: ImportArgs) -> Result<(), CommandError> {
    let ImportArgs { file, grants: GrantArgs { grants }, storage } = args;
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display())).map_err(
            |error| CommandError { exit: Exit::Usage, error, hint: None }.hint("`htpasswd -B` writes one"),
        )?;
    let imported = act(context, &storage, Absent::Made, async |operator| {
        Ok(operator.import_htpasswd(Secret::new(text), grants).await?)
    })?;
    text::say(format_args!("Added {}.", text::count(imported.added.len() as u64, "user")));
    for name in imported.existing {
        text::say(format_args!("{name} was here before and stays unchanged."));
    }
    Ok(())
}

/// A password for somebody.
struct Chosen {
    secret: Secret,
    /// Nobody knows it yet.
    is_new: bool,
}

impl PasswordArgs {
    fn get(&self) -> Result<Chosen, CommandError> {
        if self.password_stdin {
            return Ok(Chosen { secret: Secret::new(read_line()?), is_new: false });
        }
        if !std::io::stdin().is_terminal() {
            return Ok(Chosen { secret: Secret::draw(), is_new: true });
        }
        let secret = ask_secret("Password: ")?;
        if secret != ask_secret("Once more: ")? {
            return Err(CommandError::new(Exit::Usage, "the two passwords differ").hint("try again"));
        }
        Ok(Chosen { secret: Secret::new(secret), is_new: false })
    }
}

impl Chosen {
    /// Shows a password that was made up, this once.
    fn show(&self) {
        if self.is_new {
            text::say("The password, which is shown only now:");
            text::result(self.secret.reveal());
        }
    }
}
