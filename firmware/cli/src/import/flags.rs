//! Every flag go-livepeer 0.9.1 takes, and what becomes of it.
//!
//! *Source:* livepeer-wire §11.1; go-livepeer `cmd/livepeer/starter/flags.go`, `cmd/livepeer/livepeer.go`.

/// A flag of go-livepeer.
#[derive(Debug)]
pub(super) struct Flag {
    /// Its name, without hyphens; case matters.
    pub(super) name: &'static str,
    /// Does it stand alone (`-flag`, `-flag=false`), without a word after it?
    pub(super) is_boolean: bool,
    /// What becomes of it.
    pub(super) becomes: Becomes,
}

/// What becomes of a flag when it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    /// It is converted.
    Converted,
    /// There is nothing to set here, because …
    NotNeeded(&'static str),
    /// We cannot do it: …
    NotSupported(&'static str),
}

/// The flag of this name.
pub(super) fn flag(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The flag of this environment variable, `LP_` and the name in capitals.
pub(super) fn flag_of_variable(variable: &str) -> Option<&'static Flag> {
    let name = variable.strip_prefix("LP_")?;
    FLAGS.iter().find(|flag| flag.name.to_ascii_uppercase() == name)
}

const GATEWAY: Becomes = Becomes::NotNeeded("a gateway's; see `millrace gateway push --help`");
const AI: Becomes = Becomes::NotSupported("AI jobs are not run by this version");
const SIGNER: Becomes = Becomes::NotSupported("a remote signer's for gateways; `millrace-signer` is another thing");
const STORAGE: Becomes =
    Becomes::NotNeeded("renditions are kept in memory and fetched by the gateway, or posted where it says");
const KAFKA: Becomes = Becomes::NotSupported("events go to the fleet (MQTT), see fleet.toml");
const DIRECTORY: Becomes = Becomes::NotNeeded(
    "state_dir holds ours; nothing of go-livepeer's is taken over, neither its database with winning tickets nor keys",
);

const fn flag_of(name: &'static str, becomes: Becomes) -> Flag {
    Flag { name, is_boolean: false, becomes }
}

const fn switch(name: &'static str, becomes: Becomes) -> Flag {
    Flag { name, is_boolean: true, becomes }
}

use Becomes::{Converted, NotNeeded, NotSupported};

/// All of them, in go-livepeer's own order.
pub(super) const FLAGS: &[Flag] = &[
    // The program's own.
    switch("j", NotNeeded("prints and ends")),
    switch("version", NotNeeded("prints and ends")),
    flag_of("v", Converted),
    flag_of("config", Converted),
    // Network and addresses.
    flag_of("network", Converted),
    flag_of("rtmpAddr", GATEWAY),
    flag_of("cliAddr", NotSupported("set admin.listen in node.toml: the same endpoints, docs/operations.md")),
    flag_of("httpAddr", Converted),
    flag_of("serviceAddr", Converted),
    flag_of("nodes", Converted),
    flag_of("verifierUrl", GATEWAY),
    flag_of("verifierPath", GATEWAY),
    switch("localVerify", GATEWAY),
    switch("httpIngest", GATEWAY),
    // Which orchestrators a gateway takes.
    flag_of("orchAddr", Converted),
    flag_of("orchWebhookUrl", GATEWAY),
    flag_of("extraNodes", NotNeeded("all of serve.nodes are told")),
    flag_of("orchBlocklist", GATEWAY),
    flag_of("orchMinLivepeerVersion", GATEWAY),
    flag_of("selectRandFreq", GATEWAY),
    flag_of("selectStakeWeight", GATEWAY),
    flag_of("selectPriceWeight", GATEWAY),
    flag_of("selectPriceExpFactor", GATEWAY),
    flag_of("orchPerfStatsUrl", GATEWAY),
    flag_of("region", GATEWAY),
    flag_of("maxPricePerUnit", GATEWAY),
    flag_of("maxPricePerCapability", GATEWAY),
    switch("ignoreMaxPriceIfNeeded", GATEWAY),
    flag_of("minPerfScore", GATEWAY),
    flag_of("discoveryTimeout", GATEWAY),
    flag_of("gatewayHost", GATEWAY),
    // Transcoding.
    switch("orchestrator", Converted),
    switch("transcoder", Converted),
    switch("gateway", Converted),
    switch("broadcaster", Converted),
    flag_of("orchSecret", Converted),
    flag_of("transcodingOptions", GATEWAY),
    flag_of("maxAttempts", GATEWAY),
    flag_of("maxSessions", Converted),
    switch("currentManifest", GATEWAY),
    flag_of("nvidia", Converted),
    flag_of("netint", NotSupported("NETINT cards are not driven; other engines that prove themselves are used")),
    switch("testTranscoder", NotNeeded("every engine has to prove itself before it is used")),
    switch("hevcDecoding", Converted),
    // AI.
    switch("aiServiceRegistry", AI),
    switch("aiWorker", AI),
    switch("aiServerless", AI),
    switch("useLiveRunners", AI),
    flag_of("liveRunnerConfig", AI),
    flag_of("liveRunnerProxyUrl", AI),
    flag_of("aiModels", AI),
    flag_of("aiModelsDir", AI),
    flag_of("aiRunnerImage", AI),
    switch("aiVerboseLogs", AI),
    flag_of("aiRunnerImageOverrides", AI),
    flag_of("aiProcessingRetryTimeout", AI),
    flag_of("aiRunnerContainersPerGPU", AI),
    flag_of("aiMinRunnerVersion", AI),
    flag_of("mediaMTXApiPassword", AI),
    flag_of("liveRunnerAddr", AI),
    flag_of("liveAITrickleHostForRunner", AI),
    flag_of("liveAIAuthApiKey", AI),
    flag_of("liveAIHeartbeatURL", AI),
    flag_of("liveAIHeartbeatHeaders", AI),
    flag_of("liveAIHeartbeatInterval", AI),
    flag_of("liveAIAuthWebhookUrl", AI),
    flag_of("livePaymentInterval", AI),
    flag_of("liveOutSegmentTimeout", AI),
    flag_of("liveAISaveNSegments", AI),
    flag_of("liveAICapRefreshModels", AI),
    flag_of("liveAICapReportInterval", AI),
    // The chain.
    flag_of("ethAcctAddr", Converted),
    flag_of("ethPassword", Converted),
    flag_of("ethKeystorePath", Converted),
    flag_of("ethOrchAddr", Converted),
    flag_of("ethUrl", Converted),
    flag_of("transactionTimeout", Converted),
    flag_of("maxTransactionReplacements", Converted),
    flag_of("gasLimit", NotNeeded("the limit of each transaction follows from what it does; signer.toml bounds it")),
    flag_of("minGasPrice", Converted),
    flag_of("maxGasPrice", Converted),
    flag_of("ethController", Converted),
    switch("initializeRound", Converted),
    flag_of("initializeRoundMaxDelay", Converted),
    flag_of("ticketEV", Converted),
    flag_of("maxFaceValue", Converted),
    flag_of("maxTicketEV", GATEWAY),
    flag_of("maxTotalEV", GATEWAY),
    flag_of("depositMultiplier", GATEWAY),
    flag_of("pricePerUnit", Converted),
    flag_of("pixelsPerUnit", Converted),
    flag_of("priceFeedAddr", Converted),
    switch("autoAdjustPrice", Converted),
    flag_of("pricePerGateway", Converted),
    flag_of("pricePerBroadcaster", Converted),
    flag_of("blockPollingInterval", Converted),
    switch("redeemer", Converted),
    flag_of("redeemerAddr", NotSupported("the node redeems its own tickets, by its own signer")),
    switch("reward", Converted),
    // Measurements and logs.
    switch("monitor", NotNeeded("/metrics is there wherever admin.listen is set: docs/operations.md")),
    switch("metricsPerStream", NotSupported("counts are kept per node; segments are in the journal by session")),
    switch("metricsClientIP", NotSupported("addresses of clients are not exported")),
    flag_of("metadataQueueUri", KAFKA),
    flag_of("metadataAmqpExchange", KAFKA),
    flag_of("metadataPublishTimeout", KAFKA),
    // Storage.
    flag_of("datadir", DIRECTORY),
    flag_of("dataDir", DIRECTORY),
    flag_of("objectStore", STORAGE),
    flag_of("recordStore", STORAGE),
    flag_of("FVfailGsbucket", GATEWAY),
    flag_of("FVfailGskey", GATEWAY),
    // The rest.
    flag_of("authWebhookUrl", Converted),
    switch("startupAvailabilityCheck", Converted),
    switch("remoteSigner", Converted),
    flag_of("remoteSignerUrl", SIGNER),
    flag_of("remoteSignerHeaders", SIGNER),
    flag_of("remoteSignerWebhookUrl", SIGNER),
    flag_of("remoteSignerWebhookHeaders", SIGNER),
    switch("remoteSignerAllowNoAuth", SIGNER),
    switch("remoteDiscovery", SIGNER),
    flag_of("kafkaBootstrapServers", KAFKA),
    flag_of("kafkaUser", KAFKA),
    flag_of("kafkaPassword", KAFKA),
    flag_of("kafkaGatewayTopic", KAFKA),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_stands_twice_and_variables_find_their_flag() {
        for (place, one) in FLAGS.iter().enumerate() {
            assert!(FLAGS.iter().take(place).all(|other| other.name != one.name), "{}", one.name);
        }
        assert_eq!(flag_of_variable("LP_SERVICEADDR").unwrap().name, "serviceAddr");
        assert!(flag_of_variable("LP_NOTHING").is_none() && flag("serviceaddr").is_none());
    }
}
