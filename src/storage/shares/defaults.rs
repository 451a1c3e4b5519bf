//! What is left out of shared folders unless their user says otherwise: secrets that nobody means to hand out, and what
//! is of use to nobody else. `docs/sharing.md` lists it.

use std::path::Path;
use std::sync::LazyLock;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::Why;

/// Files and folders that hold passwords, private keys and the like. All patterns are of the last part of a path, in
/// small letters; a name is compared in small letters, for some file systems do not tell them from capitals.
#[rustfmt::skip]
pub(super) const SECRETS: &[&str] = &[
    // Keys and their rings.
    ".ssh/", ".gnupg/", ".pki/", ".password-store/", "keyrings/", "keychains/", "id_rsa", "id_dsa", "id_ecdsa",
    "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "identity.key", "identity.key.*", "*.pem", "*.key",
    "*.p8", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.keystore", "*.kdb", "*.kdbx", "*.keyring", "*.keychain",
    "*.keychain-db", "*.agekey", "*.ovpn", "secring.*", "wallet.dat",
    // What programs log in with.
    ".env", ".env.*", "!.env.example", "!.env.sample", "!.env.template", "*.env", ".envrc", ".netrc", "_netrc",
    ".authinfo", ".authinfo.gpg", ".pgpass", ".my.cnf", ".mylogin.cnf", ".npmrc", ".pypirc", ".git-credentials",
    ".htpasswd", ".dockercfg", ".vault-token", ".boto", ".s3cfg", "rclone.conf", "credentials", "credentials.json", "credentials.toml",
    "client_secret*.json", "*.tfstate", "http-token", "login data", "logins.json", "key4.db", ".aws/", ".azure/",
    ".gcloud/", ".kube/", ".docker/", ".mozilla/", ".thunderbird/",
    // What was typed.
    ".*_history", ".lesshst", ".xauthority", ".iceauthority", ".google_authenticator",
];

/// Unfinished downloads, files of editors and systems, and repositories.
#[rustfmt::skip]
pub(super) const JUNK: &[&str] = &[
    // Downloads and copies that are not whole.
    "*.part", "*.partial", "*.crdownload", "*.download", "*.opdownload", "*.filepart", "*.aria2", "*.!qb", "*.!ut",
    "*.bc!", "*.fdmdownload", "*.tmp", "*.temp", "*.swarmdex-part", ".syncthing.*", "~syncthing~*", ".goutputstream-*",
    ".nfs*", ".fuse_hidden*",
    // Programs that have a file open.
    "~$*", ".~lock.*", "*~", "*.swp", "*.swo", "*.swx", ".#*", "\\#*#",
    // Systems.
    ".ds_store", "._*", ".appledouble", ".lsoverride", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "$recycle.bin/", "recycler/", "system volume information/", ".trash/", ".trash-*/", ".trashes", ".spotlight-v100",
    ".fseventsd", ".temporaryitems", ".documentrevisions-v100", ".directory", "lost+found/", "@eadir/", "\\#recycle/",
    "\\#snapshot/", ".snapshots/", ".zfs/", ".stfolder", ".stversions/", "__pycache__/",
    // Repositories, which hold what was deleted as well.
    ".git", ".hg/", ".svn/", ".bzr/", ".jj/", "cvs/",
];

/// A `*.key` that is longer is no key: presentations are called so, too.
const MAX_KEY: u64 = 64 << 10;

/// The lists, made for comparing.
struct Lists {
    secrets: Gitignore,
    junk: Gitignore,
}

static LISTS: LazyLock<Lists> = LazyLock::new(|| Lists { secrets: compile(SECRETS), junk: compile(JUNK) });

fn compile(patterns: &[&str]) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        // A test reads all of them.
        let _ = builder.add_line(None, pattern);
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

/// Whether the lists leave a file or folder of this name out.
pub(super) fn judge(name: &str, is_folder: bool, length: u64) -> Option<Why> {
    let name = name.to_lowercase();
    let path = Path::new(&name);
    if LISTS.secrets.matched(path, is_folder).is_ignore() && !(name.ends_with(".key") && length > MAX_KEY) {
        return Some(Why::Secret);
    }
    LISTS.junk.matched(path, is_folder).is_ignore().then_some(Why::Junk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_one_and_is_documented() {
        let text = include_str!("../../../docs/sharing.md");
        for (patterns, lists) in [(SECRETS, &LISTS.secrets), (JUNK, &LISTS.junk)] {
            assert_eq!(lists.len(), patterns.len());
            for pattern in patterns {
                assert_eq!(*pattern, pattern.to_lowercase(), "compared in small letters");
                let shown = format!("`{}`", pattern.replace('\\', ""));
                assert!(text.contains(&shown), "docs/sharing.md does not list {shown}");
            }
        }
    }

    #[test]
    fn secrets_and_junk_are_known_in_any_case_and_what_looks_alike_is_not() {
        for (name, is_folder) in [
            (".env", false),
            (".ENV", false),
            (".env.production", false),
            ("prod.env", false),
            (".netrc", false),
            ("id_rsa", false),
            ("ID_ED25519", false),
            ("server.pem", false),
            ("Private.KEY", false),
            (".aws", true),
            (".ssh", true),
            ("login.keyring", false),
            ("keyrings", true),
            (".bash_history", false),
            ("vault.kdbx", false),
            ("identity.key.old-12D3KooW", false),
        ] {
            assert_eq!(judge(name, is_folder, 100), Some(Why::Secret), "{name}");
        }
        for (name, is_folder) in [
            ("Thumbs.db", false),
            (".DS_Store", false),
            ("._photo.jpg", false),
            ("film.mkv.part", false),
            ("x.crdownload", false),
            ("~$a.docx", false),
            (".git", true),
            (".git", false),
            ("a.txt~", false),
            ("#a#", false),
            ("#recycle", true),
            ("$RECYCLE.BIN", true),
            ("lost+found", true),
            (".a.txt.swp", false),
        ] {
            assert_eq!(judge(name, is_folder, 100), Some(Why::Junk), "{name}");
        }
        for (name, is_folder) in [
            ("a.txt", false),
            ("environment", false),
            (".env.example", false),
            ("id_rsa.pub", false),
            ("monkey", false),
            ("film.part1.rar", false),
            ("keyrings", false),
            ("party", true),
            ("identity.pdf", false),
            ("é.txt", false),
        ] {
            assert_eq!(judge(name, is_folder, 100), None, "{name}");
        }
        assert_eq!(judge("talk.key", false, 3 << 20), None, "a presentation");
    }
}
