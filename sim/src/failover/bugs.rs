//! Bugs that can be planted in the way that the nodes are run, to show that the checks find them.

/// Bugs that can be planted, to show that the checks find them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The core is not told when the lease ends.
    GrantNeverBounded,
    /// A killed node's addresses stay.
    AddressWithoutLifetime,
    /// A home that loses it keeps its resource Primary.
    NoDemotion,
    /// The fence-peer handler says that the peer is fenced without asking anybody.
    FencedUnasked,
    /// The peer's copy counts again as soon as its Primary goes on alone.
    UnfencedTooEarly,
    /// Addresses before the promotion.
    AddressFirst,
    /// The bound instance goes on as Master when its address has ended.
    RoleWithoutEnd,
    /// The bound instance becomes Master by its timer, before its service is at home.
    GrantBeforeHome,
    /// The lifetime of an address stands still while its node does.
    AddressKeptOverPause,
    /// The routers act on decisions that have waited, however long.
    DecisionsKept,
    /// A grant counts as taken before the core has it.
    GrantNotWaitedFor,
    /// A store that was put back looks as if it were newer.
    OlderStoreAccepted,
    /// A node says that there is a gate in front of its addresses, and there is none.
    GateThatIsNone,
    /// The free instance of a node hears nothing.
    FreeInstanceDeaf,
}

/// All of them.
pub const BUGS: [Bug; 14] = [
    Bug::GrantNeverBounded,
    Bug::AddressWithoutLifetime,
    Bug::NoDemotion,
    Bug::FencedUnasked,
    Bug::UnfencedTooEarly,
    Bug::AddressFirst,
    Bug::RoleWithoutEnd,
    Bug::GrantBeforeHome,
    Bug::AddressKeptOverPause,
    Bug::DecisionsKept,
    Bug::GrantNotWaitedFor,
    Bug::OlderStoreAccepted,
    Bug::GateThatIsNone,
    Bug::FreeInstanceDeaf,
];
