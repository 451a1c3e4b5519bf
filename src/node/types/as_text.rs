//! Peer ids and paths as texts, for JSON.

/// Peer ids as text.
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer};
    use swarmdex_protocols::PeerId;

    pub(crate) fn serialize<S: Serializer>(id: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Optional peer ids as text or null.
pub(crate) mod optional_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use swarmdex_protocols::PeerId;

    pub(crate) fn serialize<S: Serializer>(id: &Option<PeerId>, serializer: S) -> Result<S::Ok, S::Error> {
        id.map(|id| id.to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PeerId>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

/// Paths as texts: what of one is no UTF-8 is shown, and not told so that it could be opened by it.
pub(crate) mod path_text {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};
    use swarmdex_protocols::text;

    pub(crate) fn shown(path: &Path) -> String {
        text::of_bytes(OsStr::as_bytes(path.as_os_str()))
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&shown(path))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        PathBuf::deserialize(deserializer)
    }

    /// Lists of paths.
    pub(crate) mod list {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(paths.iter().map(|path| shown(path)))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
            Vec::deserialize(deserializer)
        }
    }
}

/// Lists of peer ids as texts.
pub(crate) mod text_list {
    use serde::{Deserialize, Deserializer, Serializer};
    use swarmdex_protocols::PeerId;

    pub(crate) fn serialize<S: Serializer>(ids: &[PeerId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PeerId>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}
