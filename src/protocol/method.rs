//! The methods that clients send, and what each of them is routed by.

use filters::Era;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Initialize,
    Initialized,
    Discover,
    Ping,
    ToolsList,
    ToolsCall,
    PromptsList,
    PromptsGet,
    ResourcesList,
    TemplatesList,
    ResourcesRead,
    Subscribe,
    Unsubscribe,
    Complete,
    SetLevel,
    Listen,
    Cancelled,
    Progress,
    RootsChanged,
    /// A method that the gateway does not know; one server behind a path of its own may.
    Other,
}

use Method::*;

const WORDS: &[(Method, &str)] = &[
    (Initialize, "initialize"),
    (Initialized, "notifications/initialized"),
    (Discover, "server/discover"),
    (Ping, "ping"),
    (ToolsList, "tools/list"),
    (ToolsCall, "tools/call"),
    (PromptsList, "prompts/list"),
    (PromptsGet, "prompts/get"),
    (ResourcesList, "resources/list"),
    (TemplatesList, "resources/templates/list"),
    (ResourcesRead, "resources/read"),
    (Subscribe, "resources/subscribe"),
    (Unsubscribe, "resources/unsubscribe"),
    (Complete, "completion/complete"),
    (SetLevel, "logging/setLevel"),
    (Listen, "subscriptions/listen"),
    (Cancelled, "notifications/cancelled"),
    (Progress, "notifications/progress"),
    (RootsChanged, "notifications/roots/list_changed"),
];

impl Method {
    pub fn of(word: &str) -> Self {
        WORDS.iter().find(|(_, known)| *known == word).map_or(Other, |(method, _)| *method)
    }

    /// The method's name; a fixed word for unknown ones, so that it can label a metric.
    pub fn word(self) -> &'static str {
        WORDS.iter().find(|(method, _)| *method == self).map_or("_other", |(_, word)| word)
    }

    /// Whether the revisions of this era have the method.
    pub fn exists_in(self, era: Era) -> bool {
        match self {
            Initialize | Initialized | Ping | Subscribe | Unsubscribe | SetLevel | RootsChanged => {
                era == Era::Legacy
            }
            Discover | Listen => era == Era::Modern,
            _ => true,
        }
    }

    /// Whether its answer tells what there is, so that it depends on what the caller may use.
    pub fn tells(self) -> bool {
        matches!(
            self,
            Initialize | Discover | Listen | ToolsList | PromptsList | ResourcesList | TemplatesList
        )
    }

    /// Whether the request may be sent again when nobody knows if it arrived: it only reads.
    pub fn is_safe(self) -> bool {
        matches!(
            self,
            PromptsGet | ResourcesRead | Complete | PromptsList | ToolsList | ResourcesList | TemplatesList
        )
    }
}
