//! Results of state changes and errors of configuration requests, with the texts and exit codes of drbdsetup
//! (drbd-states 4, 20, 21).

use alloc::format;
use alloc::string::String;

macro_rules! code_enum {
    ($(#[$meta:meta])* $name:ident: $repr:ty { $($variant:ident = $num:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr($repr)]
        pub enum $name { $(#[doc = concat!("Number ", stringify!($num), "; its text says what it means.")] $variant = $num,)+ }

        impl $name {
            /// Every code, in the order of the table.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The number in replies and messages.
            pub const fn number(self) -> i32 { self as $repr as i32 }

            /// The code with this number, if there is one.
            pub const fn from_number(n: i32) -> Option<$name> {
                match n { $($num => Some($name::$variant),)+ _ => None }
            }

            const fn table_text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    };
}

code_enum! {
    /// Outcome of a state change; also what a peer answers to a cluster-wide request.
    StateResult: i32 {
        CwNoNeed = 4 => "no need for a cluster-wide change",
        CwSuccess = 3 => "success, confirmed by the peer",
        NothingToDo = 2 => "nothing to do",
        Success = 1 => "success",
        UnknownError = 0 => "unknown error.",
        TwoPrimaries = -1 => "Multiple primaries not allowed by config",
        NoUpToDateDisk = -2 => "Need access to UpToDate data",
        NoLocalDisk = -4 => "Can not resync without local disk",
        NoRemoteDisk = -5 => "Can not resync without remote disk",
        ConnectedOutdates = -6 => "Refusing to be Outdated while Connected",
        PrimaryNop = -7 => "Refusing to be Primary while peer is not outdated",
        ResyncRunning = -8 => "Can not start OV/resync since it is already active",
        AlreadyStandalone = -9 => "Can not disconnect a StandAlone device",
        CwFailedByPeer = -10 => "State change was refused by peer node",
        IsDiskless = -11 => "Device is diskless, the requested operation requires a disk",
        DeviceInUse = -12 => "Device is held open by someone",
        NoNetConfig = -13 => "Have no net/connection configuration",
        NoVerifyAlg = -14 => "Need a verify algorithm to start online verify",
        NeedConnection = -15 => "Need a connection to start verify or resync",
        LowerThanOutdated = -16 => "Disk state is lower than outdated",
        NotSupported = -17 => "Peer does not support protocol",
        InTransientState = -18 => "In transient state, retry after next state change",
        ConcurrentStateChange = -19 => "Concurrent state changes detected and aborted",
        OtherVolumePeerPrimary = -20 => "Other vol primary on peer not allowed by config",
        OutdateWithoutConnection = -21 => "Need a connection for a graceful disconnect/outdate peer",
    }
}

code_enum! {
    /// Why a configuration request was refused. A few numbers are historic: they have a text, nothing
    /// produces them any more.
    ConfigError: i32 {
        LocalAddr = 102 => "Local address(port) already in use.",
        PeerAddr = 103 => "Remote address(port) already in use.",
        OpenDisk = 104 => "Can not open backing device.",
        OpenMdDisk = 105 => "Can not open meta device.",
        LowerInUse = 106 => "Lower device already in use.",
        DiskNotBdev = 107 => "Lower device is not a block device.",
        MdNotBdev = 108 => "Meta device is not a block device.",
        OpenLower = 109 => "Open of lower device failed.",
        OpenMeta = 110 => "Open of meta device failed.",
        DiskTooSmall = 111 => "Low.dev. smaller than requested DRBD-dev. size.",
        MdDiskTooSmall = 112 => "Meta device too small.",
        DiskCommandFirst = 113 => "You have to use the disk command first.",
        BdclaimDisk = 114 => "Lower device is already claimed. This usually means it is mounted.",
        BdclaimMdDisk = 115 => "Meta device is already claimed. This usually means it is mounted.",
        MdIdxInvalid = 116 => "Lower device / meta device / index combination invalid.",
        IoMdDisk = 118 => "IO error(s) occurred during initial access to meta-data.\n",
        MdInvalid = 119 => "No valid meta-data signature found.\n\n\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n",
        AuthAlg = 120 => "The 'cram-hmac-alg' you specified is not known in the kernel. (Maybe you need to modprobe it, or modprobe hmac?)",
        AuthAlgNd = 121 => "The 'cram-hmac-alg' you specified is not a digest.",
        Nomem = 122 => "kmalloc() failed. Out of memory?",
        DiscardImpossible = 123 => "--discard-my-data not allowed when primary.",
        DiskConfigured = 124 => "Device is attached to a disk (use detach first)",
        NetConfigured = 125 => "Device has a net-config (use disconnect first)",
        MandatoryTag = 126 => "UnknownMandatoryTag",
        MinorInvalid = 127 => "Device minor not allocated",
        ResultStateInvalid = 128 => "Resulting device state would be invalid",
        Intr = 129 => "Interrupted by Signal",
        ResizeResync = 130 => "Resize not allowed during resync.",
        NoPrimary = 131 => "Need one Primary node to resize.",
        ResyncAfter = 132 => "The resync-after minor number is invalid",
        ResyncAfterCycle = 133 => "This would cause a resync-after dependency cycle",
        PauseIsSet = 134 => "Sync-pause flag is already set",
        PauseIsClear = 135 => "Sync-pause flag is already cleared",
        LowerThanOutdated = 136 => "Disk state is lower than outdated",
        PacketNr = 137 => "Kernel does not know how to handle your request.\nMaybe API_VERSION mismatch?",
        NoDisk = 138 => "Device does not have a disk-config",
        NotProtoC = 139 => "Protocol C required",
        NomemBitmap = 140 => "vmalloc() failed. Out of memory?",
        IntegrityAlg = 141 => "The 'data-integrity-alg' you specified is not known in the kernel. (Maybe you need to modprobe it, or modprobe hmac?)",
        IntegrityAlgNd = 142 => "The 'data-integrity-alg' you specified is not a digest.",
        CpuMaskParse = 143 => "Invalid cpu-mask.",
        CsumsAlg = 144 => "CSUMSAlgNotAvail",
        CsumsAlgNd = 145 => "CSUMSAlgNotDigest",
        VerifyAlg = 146 => "VERIFYAlgNotAvail",
        VerifyAlgNd = 147 => "VERIFYAlgNotDigest",
        CsumsResyncRunning = 148 => "Can not change csums-alg while resync is in progress",
        VerifyRunning = 149 => "Can not change verify-alg while online verify runs",
        DataNotCurrent = 150 => "Can only attach to the data we lost last (see kernel log).",
        Connected = 151 => "Need to be StandAlone",
        Perm = 152 => "Permission denied. CAP_SYS_ADMIN necessary",
        NeedApv93 = 153 => "Protocol version 93 required to use --assume-clean",
        StonithAndProtA = 154 => "Fencing policy resource-and-stonith only with prot B or C allowed",
        CongNotProtoA = 155 => "on-congestion policy pull-ahead only with prot A allowed",
        PicAfterDep = 156 => "Sync-pause flag is already cleared.\nNote: Resync pause caused by a local resync-after dependency.",
        PicPeerDep = 157 => "Sync-pause flag is already cleared.\nNote: Resync pause caused by the peer node.",
        ResNotKnown = 158 => "Unknown resource",
        ResInUse = 159 => "Resource still in use (delete all minors first)",
        MinorConfigured = 160 => "Minor still configured (down it first)",
        MinorOrVolumeExists = 161 => "Minor or volume exists already (delete it first)",
        InvalidRequest = 162 => "Invalid configuration request",
        NeedApv100 = 163 => "Prot version 100 required in order to change\nthese network options while connected",
        NeedAllowTwoPri = 164 => "Can not clear allow_two_primaries as long as\nthere a primaries on both sides",
        MdUnclean = 165 => "Unclean meta-data found.\nYou need to 'drbdadm apply-al res'\n",
        MdLayoutConnected = 166 => "DRBD need to be connected for online MD layout change\n",
        MdLayoutTooBig = 167 => "Resulting AL area too big\n",
        MdLayoutTooSmall = 168 => "Resulting AL are too small\n",
        MdLayoutNoFit = 169 => "Resulting AL does not fit into available meta data space\n",
        ImplicitShrink = 170 => "Implicit device shrinking not allowed. See kernel log.\n",
    }
}

/// "No further information": the number of success in replies to configuration requests.
pub const NO_ERROR: i32 = 101;

impl StateResult {
    /// The change was made, or was not needed.
    pub const fn is_success(self) -> bool {
        self.number() >= StateResult::Success.number()
    }

    /// The text after `State change failed:` in logs. Codes that are no refusal have none of their own.
    pub const fn text(self) -> &'static str {
        log_text(self.number())
    }

    /// Exit code of the command that was answered with this result.
    pub const fn exit_code(self) -> u8 {
        exit_code(self.number())
    }

    /// What the user sees on stderr; see [`message`].
    pub fn message(self, object: &str, info: Option<&str>) -> Option<String> {
        message(self.number(), object, info)
    }
}

impl ConfigError {
    /// The text; some end with a newline of their own.
    pub const fn text(self) -> &'static str {
        self.table_text()
    }

    /// Exit code of the command that was answered with this error.
    pub const fn exit_code(self) -> u8 {
        exit_code(self.number())
    }

    /// What the user sees on stderr; see [`message`].
    pub fn message(self, object: &str, info: Option<&str>) -> Option<String> {
        message(self.number(), object, info)
    }
}

/// Text of a result number in log lines, for any number a peer may send.
pub const fn log_text(number: i32) -> &'static str {
    // spec: drbd-states 4: the texts reach from -21 to -1
    if number > StateResult::TwoPrimaries.number() {
        return "TOO_LARGE";
    }
    if number < StateResult::OutdateWithoutConnection.number() {
        return "TOO_SMALL";
    }
    match StateResult::from_number(number) {
        Some(r) => r.table_text(),
        None => "(no text)",
    }
}

/// Exit code for any result number of a request (drbd-states 21).
pub const fn exit_code(number: i32) -> u8 {
    if number == NO_ERROR || ConfigError::from_number(number).is_some() {
        return if number == NO_ERROR { 0 } else { 10 };
    }
    match StateResult::from_number(number) {
        Some(r) if r.is_success() => 0,
        Some(StateResult::NoUpToDateDisk) => 17,
        Some(StateResult::LowerThanOutdated) => 5,
        Some(StateResult::NoLocalDisk) => 16,
        Some(_) => 11,
        None => 20,
    }
}

/// What drbdsetup prints on stderr for a result, without the last newline; None if it prints nothing.
/// `object` is the first argument of the command as typed, `info` what the device sent besides.
pub fn message(number: i32, object: &str, info: Option<&str>) -> Option<String> {
    let headline = headline(number, object);
    let info = info.map(|text| format!("additional info from kernel:\n{text}"));
    match (headline, info) {
        (Some(h), Some(i)) => Some(format!("{h}\n{i}")),
        (h, i) => h.or(i),
    }
}

fn headline(number: i32, object: &str) -> Option<String> {
    if number == NO_ERROR {
        return None;
    }
    if let Some(e) = ConfigError::from_number(number) {
        return Some(format!("{object}: Failure: ({number}) {}", e.text()));
    }
    match StateResult::from_number(number) {
        Some(r) if r.is_success() => None,
        // spec: drbd-states 4: no blank in this one
        Some(StateResult::UnknownError) => {
            Some(format!("{object}: State change failed: (0){}", StateResult::UnknownError.table_text()))
        }
        Some(r) => Some(format!("{object}: State change failed: ({number}) {}", r.table_text())),
        None => Some(format!(
            "{object}: Error code {number} unknown.\nYou should update the drbd userland tools."
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_are_complete() {
        for r in StateResult::ALL {
            assert_eq!(StateResult::from_number(r.number()), Some(*r));
        }
        for n in -21..=4 {
            assert_eq!(StateResult::from_number(n).is_some(), n != -3, "{n}");
        }
        for n in 100..=172 {
            let known = (102..=170).contains(&n) && n != 117;
            assert_eq!(ConfigError::from_number(n).is_some(), known, "{n}");
        }
        assert_eq!(ConfigError::ALL.len(), 68);
    }

    #[test]
    fn success_is_one_and_above() {
        for r in StateResult::ALL {
            assert_eq!(r.is_success(), r.number() >= 1);
        }
    }

    #[test]
    fn exit_codes_of_the_specification() {
        for (number, exit) in [
            (101, 0),
            (1, 0),
            (2, 0),
            (3, 0),
            (4, 0),
            (102, 10),
            (170, 10),
            (-2, 17),
            (-16, 5),
            (-4, 16),
            (-1, 11),
            (-12, 11),
            (0, 11),
            (-3, 20),
            (-22, 20),
            (117, 20),
            (171, 20),
        ] {
            assert_eq!(exit_code(number), exit, "{number}");
        }
    }

    // recorded from drbdsetup 8.4
    #[test]
    fn messages_as_recorded() {
        let says = |n, object, info| message(n, object, info).unwrap();
        assert_eq!(says(-2, "0", None), "0: State change failed: (-2) Need access to UpToDate data");
        assert_eq!(
            says(-15, "0", None),
            "0: State change failed: (-15) Need a connection to start verify or resync"
        );
        assert_eq!(
            says(-12, "r0", Some("failed to demote")),
            "r0: State change failed: (-12) Device is held open by someone\n\
             additional info from kernel:\nfailed to demote"
        );
        assert_eq!(
            says(127, "0", Some("unknown minor")),
            "0: Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown minor"
        );
        assert_eq!(says(102, "r0", None), "r0: Failure: (102) Local address(port) already in use.");
        assert_eq!(
            ConfigError::InvalidRequest.message("??", Some("unknown connection")).unwrap(),
            "??: Failure: (162) Invalid configuration request\n\
             additional info from kernel:\nunknown connection"
        );
    }

    #[test]
    fn messages_of_odd_numbers() {
        assert_eq!(message(0, "0", None).unwrap(), "0: State change failed: (0)unknown error.");
        assert_eq!(
            message(-99, "r0", None).unwrap(),
            "r0: Error code -99 unknown.\nYou should update the drbd userland tools."
        );
        assert_eq!(message(101, "0", None), None);
        assert_eq!(StateResult::NothingToDo.message("0", None), None);
        assert_eq!(StateResult::Success.message("0", Some("x")).unwrap(), "additional info from kernel:\nx");
    }

    #[test]
    fn log_texts_outside_of_the_table() {
        assert_eq!(log_text(0), "TOO_LARGE");
        assert_eq!(log_text(2), "TOO_LARGE");
        assert_eq!(log_text(-22), "TOO_SMALL");
        assert_eq!(log_text(i32::MIN), "TOO_SMALL");
        assert_eq!(log_text(-3), "(no text)");
        assert_eq!(StateResult::TwoPrimaries.text(), "Multiple primaries not allowed by config");
    }
}
