//! `penstock certs …`: the command line of this crate.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use penstock_proto::DeviceId;
use serde_json::{Value, json};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::{
    Authority, CredentialFiles, Description, Overwrite, Serial, describe, device_ids, files,
    provision_devices,
};

/// Certificates for development and tests: an authority, servers, devices, revocation lists.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a certificate authority: ca.pem and ca.key
    #[command(after_help = "Example:\n  penstock certs ca --dir certs --name 'Example development CA'")]
    Ca(Ca),
    /// Sign the gateway's certificate: server.pem and server.key
    #[command(
        after_help = "Example:\n  penstock certs server --dir certs gateway.example.org localhost 127.0.0.1"
    )]
    Server(Server),
    /// Sign the certificate of one device: devices/UUID.pem and .key
    #[command(after_help = "Examples:\n  penstock certs device --dir certs\n  \
        penstock certs device --dir certs 0a1b2c3d-0000-4000-8000-0123456789ab")]
    Device(Device),
    /// Sign the certificates of many devices
    #[command(after_help = "Example:\n  penstock certs devices --dir certs --count 300 --seed 7")]
    Devices(Devices),
    /// Revoke certificates: add them to a certificate revocation list
    #[command(after_help = "Example:\n  penstock certs crl --dir certs certs/devices/0a1b2c3d-*.pem\n\n\
        Name the list in penstock.toml: [gateway.tls] crl_files = [\"certs/revoked.pem\"]")]
    Crl(Crl),
    /// Print what a certificate says: device, validity, issuer
    #[command(after_help = "Example:\n  penstock certs show certs/server.pem certs/devices/*.pem")]
    Show(Show),
}

/// Where the authority's files are, and how to print.
#[derive(Args, Debug)]
pub struct Common {
    /// Folder of the authority's files
    #[arg(long, default_value = "certs", value_name = "DIR")]
    pub dir: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

const DAYS: std::ops::RangeInclusive<i64> = 1..=crate::DAYS_MAX as i64;

/// `penstock certs ca`
#[derive(Args, Debug)]
pub struct Ca {
    #[command(flatten)]
    common: Common,
    /// Common name of the authority
    #[arg(long, default_value = "Penstock development CA")]
    name: String,
    /// Validity in days
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(DAYS))]
    days: u32,
}

/// `penstock certs server`
#[derive(Args, Debug)]
pub struct Server {
    #[command(flatten)]
    common: Common,
    /// DNS names and IP addresses that clients connect to
    #[arg(default_values = ["localhost", "127.0.0.1", "::1"], value_name = "NAME")]
    names: Vec<String>,
    /// Validity in days
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(DAYS))]
    days: u32,
}

/// `penstock certs device`
#[derive(Args, Debug)]
pub struct Device {
    #[command(flatten)]
    common: Common,
    /// The device's UUID; a new random one if not given
    #[arg(value_name = "UUID")]
    device: Option<DeviceId>,
    /// Validity in days
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(DAYS))]
    days: u32,
}

/// `penstock certs devices`
#[derive(Args, Debug)]
pub struct Devices {
    #[command(flatten)]
    common: Common,
    /// How many devices
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Make the device ids from this number, so that they are the same every time; random if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Validity in days
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(DAYS))]
    days: u32,
}

/// `penstock certs crl`
#[derive(Args, Debug)]
pub struct Crl {
    /// Folder of the authority's files
    #[arg(long, default_value = "certs", value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    /// Certificates to revoke: PEM files or serial numbers in hexadecimal
    #[arg(value_name = "FILE|SERIAL")]
    revoked: Vec<String>,
    /// The list; what it already names stays on it [default: DIR/revoked.pem]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Days until the list has to be made anew
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(DAYS))]
    days: u32,
}

/// `penstock certs show`
#[derive(Args, Debug)]
pub struct Show {
    /// PEM files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print a JSON array instead of text
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Runs the command and prints its result to standard output.
    ///
    /// # Errors
    /// What went wrong, with the file and what to do next.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.run_to(&mut io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }

    fn run_to(&self, out: &mut impl Write) -> anyhow::Result<()> {
        match self {
            Self::Ca(args) => args.run(out),
            Self::Server(args) => args.run(out),
            Self::Device(args) => args.run(out),
            Self::Devices(args) => args.run(out),
            Self::Crl(args) => args.run(out),
            Self::Show(args) => args.run(out),
        }
    }
}

impl Ca {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let authority = Authority::create(&self.name, self.days)?;
        let files = authority.save(&self.common.dir, Overwrite::from(self.common.force))?;
        print(out, self.common.json, &files, &json!({ "serial": authority.credentials().serial.to_string() }))
    }
}

impl Server {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let credentials = Authority::load(&self.common.dir)?.server(&self.names, self.days)?;
        let files = CredentialFiles::new(&self.common.dir, "server");
        files.write(&credentials, Overwrite::from(self.common.force))?;
        let more = json!({ "names": self.names, "serial": credentials.serial.to_string() });
        print(out, self.common.json, &files, &more)
    }
}

impl Device {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let authority = Authority::load(&self.common.dir)?;
        let devices = self.device.map_or_else(|| device_ids(None, 1), |device| vec![device]);
        let overwrite = Overwrite::from(self.common.force);
        let files = provision_devices(&authority, &self.common.dir, &devices, self.days, overwrite)?;
        for (device, files) in devices.iter().zip(&files) {
            print(out, self.common.json, files, &json!({ "device": device.to_string() }))?;
        }
        Ok(())
    }
}

impl Devices {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let authority = Authority::load(&self.common.dir)?;
        let devices = device_ids(self.seed, usize::try_from(self.count)?);
        let overwrite = Overwrite::from(self.common.force);
        provision_devices(&authority, &self.common.dir, &devices, self.days, overwrite)?;
        let dir = self.common.dir.join(crate::provision::DEVICES);
        if self.common.json {
            let devices: Vec<_> = devices.iter().map(DeviceId::to_string).collect();
            writeln!(out, "{}", json!({ "dir": dir, "devices": devices }))?;
        } else {
            writeln!(out, "{} devices in {}", devices.len(), dir.display())?;
        }
        Ok(())
    }
}

fn print(out: &mut impl Write, json: bool, files: &CredentialFiles, more: &Value) -> anyhow::Result<()> {
    if json {
        let mut object = json!({ "cert": files.cert, "key": files.key });
        if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
            object.extend(more.clone());
        }
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{}\n{}", files.cert.display(), files.key.display())?;
    }
    Ok(())
}

impl Crl {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let authority = Authority::load(&self.dir)?;
        let path = self.out.clone().unwrap_or_else(|| self.dir.join("revoked.pem"));
        let mut serials = if path.exists() { listed(&path)? } else { BTreeSet::new() };
        let before = serials.len();
        for revoked in &self.revoked {
            serials.insert(serial_of(revoked)?);
        }
        let list: Vec<Serial> = serials.into_iter().collect();
        // The list is one file that grows: replacing it is its purpose, and nothing that was on it is lost.
        files::write_public(&path, &authority.revoke(&list, self.days)?, Overwrite::Force)?;
        if self.json {
            let serials: Vec<_> = list.iter().map(Serial::to_string).collect();
            writeln!(out, "{}", json!({ "crl": path, "serials": serials }))?;
        } else {
            let added = list.len() - before;
            writeln!(out, "{}\n{} revoked, {added} of them new", path.display(), list.len())?;
        }
        Ok(())
    }
}

fn serial_of(text: &str) -> anyhow::Result<Serial> {
    let path = Path::new(text);
    if path.exists() {
        return Ok(read_description(path)?.serial);
    }
    text.parse().with_context(|| format!("{text:?} is neither a PEM file that exists nor a serial number"))
}

fn listed(path: &Path) -> anyhow::Result<BTreeSet<Serial>> {
    use rustls_pki_types::pem::PemObject as _;
    let text = files::read(path)?;
    let refused =
        || format!("{} is not a certificate revocation list: name another file with --out", path.display());
    let der = rustls_pki_types::CertificateRevocationListDer::from_pem_slice(text.as_bytes())
        .with_context(refused)?;
    let (_, list) = CertificateRevocationList::from_der(&der).with_context(refused)?;
    list.iter_revoked_certificates()
        .map(|revoked| Serial::from_bytes(revoked.raw_serial()).with_context(refused))
        .collect()
}

fn read_description(path: &Path) -> anyhow::Result<Description> {
    let text = files::read(path)?;
    describe(&text).map_err(|why| crate::CertsError::content(path, why).into())
}

impl Show {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let mut all = Vec::new();
        for path in &self.files {
            let description = read_description(path)?;
            if self.json {
                let mut object = serde_json::to_value(&description)?;
                object["file"] = json!(path);
                object["valid"] = json!(description.is_valid_at(now));
                all.push(object);
            } else {
                show(out, path, &description, now)?;
            }
        }
        if self.json {
            writeln!(out, "{}", Value::Array(all))?;
        }
        Ok(())
    }
}

fn show(out: &mut impl Write, path: &Path, description: &Description, now: Timestamp) -> io::Result<()> {
    let Description { subject, issuer, serial, not_before, not_after, .. } = description;
    let device = match (&description.device, &description.no_device) {
        (Some(device), _) => device.to_string(),
        (None, Some(why)) => format!("none ({why})"),
        (None, None) => "none".to_owned(),
    };
    let now = if description.is_valid_at(now) { "valid now" } else { "NOT valid now" };
    writeln!(out, "{}", path.display())?;
    writeln!(out, "  device:   {device}")?;
    writeln!(out, "  subject:  {subject}")?;
    if !description.names.is_empty() {
        writeln!(out, "  names:    {}", description.names.join(", "))?;
    }
    let role = if description.authority { " (an authority)" } else { "" };
    writeln!(out, "  issuer:   {issuer}{role}")?;
    writeln!(out, "  serial:   {serial}")?;
    writeln!(out, "  validity: {not_before} to {not_after}, {now}")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser)]
    struct Certs {
        #[command(subcommand)]
        command: Command,
    }

    fn run(line: &str, dir: &Path) -> anyhow::Result<String> {
        let line = line.replace("DIR", dir.to_str().unwrap());
        let parsed = Certs::try_parse_from(std::iter::once("certs").chain(line.split(' ')))?;
        let mut out = Vec::new();
        parsed.command.run_to(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Certs::command().debug_assert();
    }

    #[test]
    fn an_authority_signs_a_server_and_devices_into_the_files_the_configuration_expects() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run("ca --dir DIR", dir).unwrap();
        run("server --dir DIR localhost 127.0.0.1 ::1", dir).unwrap();
        run("devices --dir DIR --count 2 --seed 1", dir).unwrap();
        for file in ["ca.pem", "ca.key", "server.pem", "server.key"] {
            assert!(dir.join(file).is_file(), "{file}");
        }
        let shown = run("show DIR/server.pem", dir).unwrap();
        assert!(shown.contains("names:    localhost, 127.0.0.1, ::1"), "{shown}");
        assert!(shown.contains("CN=Penstock development CA") && shown.contains("valid now"), "{shown}");
    }

    #[test]
    fn show_prints_the_identity_as_json() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let id = "0a1b2c3d-0000-4000-8000-0123456789ab";
        run("ca --dir DIR", dir).unwrap();
        run(&format!("device --dir DIR {id}"), dir).unwrap();
        let shown = run(&format!("show --json DIR/devices/{id}.pem DIR/ca.pem"), dir).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown[0]["device"], &shown[0]["valid"]), (&json!(id), &json!(true)));
        assert_eq!((&shown[1]["device"], &shown[1]["authority"]), (&Value::Null, &json!(true)));
    }

    #[test]
    fn the_revocation_list_keeps_what_is_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run("ca --dir DIR", dir).unwrap();
        run("server --dir DIR", dir).unwrap();
        run("crl --dir DIR DIR/server.pem", dir).unwrap();
        let printed = run("crl --dir DIR --json 0a1b", dir).unwrap();
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let server = read_description(&dir.join("server.pem")).unwrap().serial;
        assert_eq!(printed["serials"], json!(["0a1b", server.to_string()]));
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let error = run("server --dir DIR", dir).unwrap_err().to_string();
        assert!(error.contains("penstock certs ca --dir"), "{error}");
        run("ca --dir DIR", dir).unwrap();
        let error = run("ca --dir DIR", dir).unwrap_err().to_string();
        assert!(error.contains("ca.pem exists already") && error.contains("--force"), "{error}");
        run("ca --dir DIR --force", dir).unwrap();
        let error = run("show DIR/ca.key", dir).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("BEGIN CERTIFICATE"), "{error}");
    }
}
