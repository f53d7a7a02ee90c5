//! A password on its way from the command line into a container.
//!
//! Owns its syntax, and that it is shown nowhere. Never here: how it is set.

use crate::failure::Failure;

/// Text that is never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(s.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Whose password to set, and to what.
#[derive(Debug, Clone)]
pub(crate) struct UserPassword {
    /// A user name as useradd takes it.
    pub(crate) user: String,
    /// The password.
    pub(crate) password: Secret,
}

impl UserPassword {
    /// `USER:PASSWORD`. No error repeats the password.
    pub(crate) fn parse(secret: &Secret) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("bad --userpasswd: {why}"));
        let (user, password) =
            secret.0.split_once(':').ok_or_else(|| wrong("it must be USER:PASSWORD"))?;
        let first = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let rest = user
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b));
        if !first || !rest || user.len() > 32 {
            return Err(wrong("the user's name may hold a-z, 0-9, '_', '-' and '.' only"));
        }
        if password.is_empty() || password.len() > 512 || password.contains(['\n', '\r', '\0']) {
            return Err(wrong("the password must be one line of 1 to 512 bytes"));
        }
        Ok(Self { user: user.to_owned(), password: Secret(password.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_repeated() {
        for bad in ["nopassword", "ROOT:sesame", "a b:sesame", ":sesame", "u:", "u:ses\name"] {
            let error = UserPassword::parse(&Secret(bad.into())).expect_err(bad);
            assert!(!format!("{error:?}").contains("ses"), "{bad:?}");
        }
        let good = UserPassword::parse(&Secret("root:a:b".into())).expect("valid");
        assert_eq!((good.user.as_str(), good.password.0.as_str()), ("root", "a:b"));
        assert!(!format!("{good:?}").contains("a:b"));
    }
}
