//! How gateways are served, who may attach, and for whom a box transcodes.
use std::net::SocketAddr;

use toml::Value;

use super::{ConvertError, Converter, Fate, Result, TextOrFile};

/// The port the network expects an orchestrator on.
const PORT: u16 = 8935;

impl Converter<'_> {
    /// An orchestrator.
    pub(super) fn serve(&mut self, transcodes: bool) -> Result {
        let mut port = PORT;
        match self.text("serviceAddr").as_deref() {
            None | Some("") => self.todo.push(
                "set serve.service_uri to what the service registry says of you: go-livepeer found its address out by asking \
                 a web site"
                    .to_owned(),
            ),
            Some("none") => self.entry("serviceAddr", Fate::NotSupported, &[], "a node without an address takes no work"),
            Some(text) => {
                let uri = self.service_uri("serviceAddr", text)?;
                let named = uri.authority().and_then(http::uri::Authority::port_u16);
                port = named.unwrap_or(PORT);
                let remark = if named.is_some() { "" } else { "no port: gateways will try 443 (https)" };
                self.map("serviceAddr", "serve", "service_uri", uri_text(&uri), remark);
            }
        }
        self.listen(port)?;
        if let Some(text) = self.text("nodes").filter(|text| !text.is_empty()) {
            let mut nodes = Vec::new();
            for node in text.split(',').map(str::trim).filter(|node| !node.is_empty()) {
                let uri = self.service_uri("nodes", node)?;
                if uri.scheme_str() != Some("https") {
                    return Err(self.wrong("nodes", "must be https"));
                }
                nodes.push(Value::from(uri_text(&uri)));
            }
            self.map("nodes", "serve", "nodes", nodes, "");
        }
        if let Some(text) = self.text("authWebhookUrl").filter(|text| !text.is_empty()) {
            let uri = text.parse::<http::Uri>().ok();
            let known =
                uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some());
            if !known {
                return Err(self.wrong("authWebhookUrl", "must be a URL with http or https and a host"));
            }
            self.map("authWebhookUrl", "serve", "auth_webhook", text, "");
        }
        if let Some(check) = self.boolean("startupAvailabilityCheck")? {
            let remark = "it is repeated while the node runs, and tells instead of ending the node";
            self.map("startupAvailabilityCheck", "serve", "availability_check", check, remark);
        }
        if self.text("orchSecret").is_some() {
            let remark =
                if transcodes { "go-livepeer's combined node took no others; boxes may attach here" } else { "" };
            self.secret("remote", remark)?;
        }
        if !transcodes {
            self.todo.push(
                "go-livepeer transcoded only on attached boxes; the node uses its own engines besides, and at least the \
                 processor"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// A box that dials out.
    pub(super) fn attach(&mut self) -> Result {
        let Some(text) = self.text("orchAddr").filter(|text| !text.is_empty()) else {
            return Err(ConvertError {
                flag: "orchAddr",
                what: "a transcoder needs the orchestrator's address".to_owned(),
            });
        };
        let mut orchestrators: Vec<String> = Vec::new();
        for address in text.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let bare = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
            // A host left out is this machine, as stock has it.
            let bare = bare.trim_end_matches('/');
            let bare = if bare.starts_with(':') { format!("127.0.0.1{bare}") } else { bare.to_owned() };
            let parsed = bare.parse::<http::uri::Authority>().ok().filter(|_| !bare.contains(['@', '/']));
            let host = parsed.filter(|authority| !authority.host().is_empty());
            let Some(authority) = host else { return Err(self.wrong("orchAddr", "must be HOST or HOST:PORT")) };
            let port = authority.port_u16();
            if port.is_none() && authority.as_str() != authority.host() {
                return Err(self.wrong("orchAddr", "has a port that is none"));
            }
            let address = format!("{}:{}", authority.host(), port.unwrap_or(PORT));
            if !orchestrators.contains(&address) {
                orchestrators.push(address);
            }
        }
        let several = orchestrators.len() > 1;
        let list: Vec<Value> = orchestrators
            .into_iter()
            .map(|address| Value::from(toml::Table::from_iter([("address".to_owned(), Value::from(address))])))
            .collect();
        let remark = if several { "in order of preference; go-livepeer used the first alone" } else { "" };
        self.map("transcoder", "transcoder", "orchestrators", list, "");
        self.mapped("orchAddr", &["transcoder.orchestrators".to_owned()], remark);
        if self.text("orchSecret").is_none() {
            return Err(ConvertError {
                flag: "orchSecret",
                what: "a transcoder needs the orchestrator's secret".to_owned(),
            });
        }
        self.secret("transcoder", "")
    }

    /// The secret that an orchestrator shares with its transcoders, by a file that only the node reads.
    fn secret(&mut self, section: &str, remark: &str) -> Result {
        let file = self.options.secret_file.display().to_string();
        let key = self.document.set(section, "secret_file", file);
        match self.text_or_file("orchSecret")? {
            Some(TextOrFile::Text(text)) if !text.is_empty() => {
                self.secret = Some(service::Secret::new(text.into_bytes()));
                self.mapped("orchSecret", &[key], remark);
            }
            Some(TextOrFile::Elsewhere) => {
                let remark = "its file is not on this machine: copy it to secret_file, mode 0600";
                self.entry("orchSecret", Fate::ByHand, &[key], remark);
            }
            _ => return Err(self.wrong("orchSecret", "empty")),
        }
        Ok(())
    }

    fn listen(&mut self, port: u16) -> Result {
        let listen = match self.text("httpAddr").as_deref() {
            None | Some("") if port == PORT => return Ok(()),
            None | Some("") => {
                let address = format!("0.0.0.0:{port}");
                let key = self.document.set("serve", "listen", address);
                if let Some(entry) = self.entries.iter_mut().find(|entry| entry.flag == "-serviceAddr") {
                    entry.keys.push(key);
                }
                return Ok(());
            }
            Some(text) => {
                let (host, named) = text.rsplit_once(':').unwrap_or((text, ""));
                let host = match host {
                    "" => "0.0.0.0",
                    "localhost" => "127.0.0.1",
                    host => host,
                };
                let named = if named.is_empty() { port.to_string() } else { named.to_owned() };
                format!("{host}:{named}")
            }
        };
        if listen.parse::<SocketAddr>().is_err() {
            return Err(self.wrong("httpAddr", "must be IP:PORT, :PORT or IP"));
        }
        self.map("httpAddr", "serve", "listen", listen, "");
        Ok(())
    }

    /// An address as go-livepeer completes it: https unless it says otherwise. No path.
    fn service_uri(&self, flag: &'static str, text: &str) -> Result<http::Uri> {
        let named = text.starts_with("http://") || text.starts_with("https://");
        let text = if named { text.to_owned() } else { format!("https://{text}") };
        let uri: Option<http::Uri> = text.trim_end_matches('/').parse().ok();
        let good = |uri: &http::Uri| {
            let plain = uri.authority().is_some_and(|a| !a.as_str().contains('@') && !a.host().is_empty());
            plain && matches!(uri.path(), "" | "/") && uri.query().is_none()
        };
        uri.filter(good).ok_or_else(|| self.wrong(flag, "must be HOST:PORT or https://HOST:PORT, nothing behind it"))
    }
}

fn uri_text(uri: &http::Uri) -> String {
    uri.to_string().trim_end_matches('/').to_owned()
}
