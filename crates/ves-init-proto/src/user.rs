//! Whose a command inside is: how that is said, and whom the container's own /etc/passwd and /etc/group mean by
//! it. Pure: who reads these files is a process inside, with the container's view of them.
//!
//! Other places that a container may have its users in, a directory server say, are not asked.
//! Never here: becoming that user.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ves_types::{IdSlot, ParseError};

/// The longest name of a user or a group.
const LONGEST: usize = 64;

/// A user or a group as somebody names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By its name.
    Name(String),
    /// By its number inside.
    Number(u32),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// A user, and the group where it is not the user's own: `www-data`, `33`, `www-data:adm`, `33:4`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserSpec {
    /// Who.
    pub user: Named,
    /// In which group, and in no other; none: in all that the user is in.
    pub group: Option<Named>,
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

impl From<UserSpec> for String {
    fn from(spec: UserSpec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for UserSpec {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl FromStr for UserSpec {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |why| ParseError::new("user", text, why);
        let named = |part: &str| match part {
            "" => Err(bad("write USER or USER:GROUP, each a name or a number")),
            _ if part.len() > LONGEST => Err(bad("a name may have 64 characters")),
            _ if part.bytes().all(|byte| byte.is_ascii_digit()) => match part.parse() {
                Ok(number) if number < IdSlot::MAPPED => Ok(Named::Number(number)),
                _ => Err(bad("the numbers of a container end at 65534")),
            },
            _ if part.bytes().all(|byte| byte.is_ascii_graphic() && !b":,/".contains(&byte)) => {
                Ok(Named::Name(part.to_owned()))
            }
            _ => Err(bad("a name has letters, digits and signs, but no blank, comma or slash")),
        };
        Ok(match text.split_once(':') {
            None => Self { user: named(text)?, group: None },
            Some((user, group)) => Self { user: named(user)?, group: Some(named(group)?) },
        })
    }
}

/// A user of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The number of the user, inside.
    pub uid: u32,
    /// The number of the group.
    pub gid: u32,
    /// All groups, the first one too.
    pub groups: Vec<u32>,
    /// What the user is called; a number without an entry has no name.
    pub name: Option<String>,
    /// The home; `/` where there is none.
    pub home: String,
    /// The login shell.
    pub shell: String,
}

/// Why nobody is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No such user.
    #[error("the container has no user {0}")]
    User(Named),
    /// No such group.
    #[error("the container has no group {0}")]
    Group(Named),
    /// A number that has no entry, of which no group is known.
    #[error("the container has no user {0} whose group could be taken; write {0}:GROUP")]
    GroupOf(u32),
    /// Numbers that no container has.
    #[error("user {0} has numbers inside that no container can have: they end at 65534")]
    Beyond(Named),
}

/// A line of /etc/passwd.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (_comment, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Entry { name, uid, gid, home, shell })
}

/// A line of /etc/group: name, number and members.
fn group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    Some((name, fields.next()?.parse().ok()?, fields.next()?))
}

impl UserSpec {
    /// Who that is in a container with these files. Lines that make no sense are nobody's.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn resolve(&self, passwd: &str, groups: &str) -> Result<Account, Unknown> {
        let mut entries = passwd.lines().filter_map(entry);
        let found = match &self.user {
            Named::Name(name) => entries.find(|entry| entry.name == name),
            Named::Number(number) => entries.find(|entry| entry.uid == *number),
        };
        let uid = match (&self.user, &found) {
            (_, Some(entry)) => entry.uid,
            (Named::Number(number), None) => *number,
            (Named::Name(_), None) => return Err(Unknown::User(self.user.clone())),
        };
        let of_container = |id: &u32| *id < IdSlot::MAPPED;
        let mut listed = groups.lines().filter_map(group);
        let (gid, all) = match (&self.group, &found) {
            (Some(Named::Number(number)), _) => (*number, vec![*number]),
            (Some(Named::Name(name)), _) => match listed.find(|(other, ..)| other == name) {
                Some((_, gid, _)) => (gid, vec![gid]),
                None => return Err(Unknown::Group(Named::Name(name.clone()))),
            },
            (None, None) => return Err(Unknown::GroupOf(uid)),
            (None, Some(entry)) => {
                let has = |members: &str| members.split(',').any(|member| member == entry.name);
                let mut all: Vec<u32> =
                    listed.filter(|(.., members)| has(members)).map(|(_, gid, _)| gid).collect();
                all.push(entry.gid);
                // One that the kernel does not know inside would be refused with all others.
                all.retain(of_container);
                all.sort_unstable();
                all.dedup();
                (entry.gid, all)
            }
        };
        if !of_container(&uid) || !of_container(&gid) {
            return Err(Unknown::Beyond(self.user.clone()));
        }
        let text = |field: Option<&str>, usual: &str| {
            field.filter(|text| text.starts_with('/')).unwrap_or(usual).to_owned()
        };
        Ok(Account {
            uid,
            gid,
            groups: all,
            name: found.as_ref().map(|entry| entry.name.to_owned()),
            home: text(found.as_ref().map(|entry| entry.home), "/"),
            shell: text(found.as_ref().map(|entry| entry.shell), "/bin/sh"),
        })
    }
}

/// What of a login's environment says who it is.
pub const IDENTITY: [&str; 4] = ["HOME", "SHELL", "USER", "LOGNAME"];

impl Account {
    /// Adds to an environment what a login of this user has, where nothing was given for it.
    pub fn complete(&self, env: &mut Vec<(String, String)>) {
        let name = self.name.clone().unwrap_or_else(|| self.uid.to_string());
        let values = [self.home.clone(), self.shell.clone(), name.clone(), name];
        for (variable, value) in IDENTITY.into_iter().zip(values) {
            if !env.iter().any(|(given, _)| given == variable) {
                env.push((variable.to_owned(), value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # a comment\nbroken:x:zero:0::/:\n+::::::\n\
        www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
        app:x:1000:1000:A, B:/home/app:\nfar:x:70000:33::/:/bin/sh\nhomeless:x:1001:33:::\n\
        app:x:7:7::/other:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:app,www-data\nwww-data:x:33:\napp:x:1000:\n\
        far:x:70000:app\nappend:x:9:app2,xapp\nbroken\ndocker:x:999:app\n";

    fn resolve(text: &str) -> Result<Account, Unknown> {
        text.parse::<UserSpec>().expect("well formed").resolve(PASSWD, GROUP)
    }

    #[test]
    fn users_are_found_as_the_container_has_them() {
        let ids = |text: &str| resolve(text).map(|a| (a.uid, a.gid, a.groups));
        assert_eq!(ids("root"), Ok((0, 0, vec![0])));
        assert_eq!(
            ids("app"),
            Ok((1000, 1000, vec![4, 999, 1000])),
            "its groups, and the first line"
        );
        assert_eq!(ids("1000"), ids("app"));
        assert_eq!(ids("app:adm"), Ok((1000, 4, vec![4])));
        assert_eq!(ids("app:12"), Ok((1000, 12, vec![12])));
        assert_eq!(ids("4321:4321"), Ok((4321, 4321, vec![4321])), "numbers need no entry");
        assert_eq!(ids("4321:adm"), Ok((4321, 4, vec![4])));
        let name = |text: &str| Named::Name(text.to_owned());
        assert_eq!(ids("nobody"), Err(Unknown::User(name("nobody"))));
        assert_eq!(ids("broken"), Err(Unknown::User(name("broken"))));
        assert_eq!(ids("app:nobody"), Err(Unknown::Group(name("nobody"))));
        assert_eq!(ids("4321"), Err(Unknown::GroupOf(4321)));
        assert_eq!(ids("far"), Err(Unknown::Beyond(name("far"))));
        assert_eq!(ids("app:far"), Err(Unknown::Beyond(name("app"))));
        let app = resolve("app").expect("there");
        assert_eq!((app.home.as_str(), app.shell.as_str()), ("/home/app", "/bin/sh"));
        assert_eq!(resolve("homeless").expect("there").home, "/");
        let mut env = vec![("HOME".to_owned(), "/mine".to_owned())];
        app.complete(&mut env);
        let env: Vec<_> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(env, ["HOME=/mine", "SHELL=/bin/sh", "USER=app", "LOGNAME=app"]);
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let long = "x".repeat(LONGEST + 1);
        for text in
            ["", ":", "a:", ":a", "a:b:c", "a b", "a,b", "../x", "65535", "4294967296", &long]
        {
            assert!(text.parse::<UserSpec>().is_err(), "{text:?}");
        }
        assert!("a\0".parse::<UserSpec>().is_err() && "a\n".parse::<UserSpec>().is_err());
        assert!("DOM\\user@x".parse::<UserSpec>().is_ok(), "as others name them");
    }

    proptest! {
        /// Whatever a container has in its files: nobody gets numbers that it cannot have, and a name that is
        /// said is a name that is read.
        #[test]
        fn files_may_hold_anything(
            passwd in "([a-c]{0,2}:x:[0-9]{0,6}:[0-9]{0,6}:[a:\\n]{0,3}:/[a-z]{0,3}:[a-z/]{0,3}\\n){0,6}",
            groups in "([a-c]{0,2}:x:[0-9]{0,6}:[a-c,\\n:]{0,6}\\n){0,6}",
            text in "([a-c]{1,2}|[0-9]{1,5})(:([a-c]{1,2}|[0-9]{1,5}))?",
        ) {
            if let Ok(spec) = text.parse::<UserSpec>() {
                prop_assert_eq!(&spec.to_string().parse::<UserSpec>().expect("as before"), &spec);
                if let Ok(account) = spec.resolve(&passwd, &groups) {
                    let ids = [account.uid, account.gid].into_iter().chain(account.groups.clone());
                    prop_assert!(ids.into_iter().all(|id| id < IdSlot::MAPPED), "{account:?}");
                    prop_assert!(account.groups.contains(&account.gid));
                    prop_assert!(account.home.starts_with('/') && account.shell.starts_with('/'));
                }
            }
        }
    }
}
