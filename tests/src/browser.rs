//! A browser without a window, for pages that programs write.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::skip::Skip;

/// Names under which the browser is installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A page is shown in less than this.
const LONGEST: Duration = Duration::from_secs(60);

/// The reader's theme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Dark letters on a light page.
    Light,
    /// Light letters on a dark page.
    Dark,
}

/// An installed browser.
#[derive(Clone, Copy, Debug)]
pub struct Browser {
    name: &'static str,
}

impl Browser {
    /// The browser of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self, Skip> {
        let found = NAMES.into_iter().find(|name| {
            let mut command = Command::new(name);
            command
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        });
        let why = "no browser is installed; apt-get install chromium";
        found
            .map(|name| Self { name })
            .ok_or_else(|| Skip(why.into()))
    }

    /// The elements of `page` as the browser has read them, and what it complained of.
    ///
    /// # Errors
    /// When it does not show the page.
    pub fn elements(self, folder: &Path, page: &Path) -> Result<(String, String)> {
        self.show(folder, page, Theme::Light, &["--dump-dom".into()])
    }

    /// A picture of `page` as a PNG.
    ///
    /// # Errors
    /// When it does not show the page.
    pub fn picture(self, folder: &Path, page: &Path, theme: Theme) -> Result<Vec<u8>> {
        let picture = folder.join(format!("{theme:?}.png"));
        let option = format!("--screenshot={}", picture.display());
        self.show(
            folder,
            page,
            theme,
            &[option, "--window-size=1060,2400".into()],
        )?;
        fs::read(&picture).with_context(|| format!("no picture {}", picture.display()))
    }

    fn show(
        self,
        folder: &Path,
        page: &Path,
        theme: Theme,
        options: &[String],
    ) -> Result<(String, String)> {
        let profile = tempfile::tempdir_in(folder)?;
        let (out, err) = (profile.path().join("out"), profile.path().join("err"));
        let mut command = Command::new(self.name);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args(["--no-first-run", "--disable-background-networking"])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
            ])
            .args(["--enable-logging=stderr", "--disable-dev-shm-usage"])
            .arg(format!(
                "--user-data-dir={}",
                profile.path().join("profile").display()
            ))
            .args(options)
            .arg(format!("file://{}", page.display()))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&err)?);
        if theme == Theme::Dark {
            command.args([
                "--force-dark-mode",
                "--blink-settings=preferredColorScheme=0",
            ]);
        }
        let mut child = command.spawn()?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > LONGEST {
                child.kill()?;
                child.wait()?;
                bail!("{} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = (fs::read_to_string(&out)?, fs::read_to_string(&err)?);
        if !status.success() {
            bail!("{}: {status}: {}", self.name, said.1);
        }
        Ok(said)
    }
}
