//! The description of a guest's RAM, and the engine's memory and trackers that are made of it.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use pagelift_engine::dirty::{Combined, DirtySource, PagemapTracker, TrackedRange};
use pagelift_engine::memory::{GuestMemory, Layout, MappedMemory, PageBitmap, RegionFile};
use pagelift_engine::sys::Mappings;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount};
use pagelift_engine::{FileMemory, GuestProperty, GuestRam, memory};

use super::Region;
use crate::call::Caller;
use crate::error::{Code, Fault};
use crate::text::text;
use crate::tracking::Tracking;

/// Where a region is.
#[derive(Clone, Debug)]
enum Place {
    File { fd: Arc<OwnedFd>, offset: u64 },
    Private,
}

#[derive(Clone, Debug)]
pub(super) struct KnownRegion {
    region: memory::Region,
    guest_address: u64,
    /// Where it is mapped; 0: nowhere.
    address: u64,
    place: Place,
}

/// What a handle describes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Description {
    pub(super) regions: Vec<KnownRegion>,
    pub(super) tracking: Vec<Tracking>,
}

impl Description {
    /// The regions in order.
    pub(crate) fn layout(&self) -> Result<Layout, Fault> {
        let regions = self.regions.iter().map(|known| known.region.clone());
        Layout::new(regions.collect()).map_err(|error| Fault::new(Code::Memory, error))
    }

    /// What must be the same on the other side.
    pub(crate) fn properties(&self) -> impl Iterator<Item = GuestProperty> {
        let stated = self.regions.iter().filter(|known| known.guest_address != 0);
        stated.map(|known| {
            let name = format!("guest address of {}", known.region.name);
            GuestProperty::new(name, format!("{:#x}", known.guest_address))
        })
    }

    /// The pages of each region, and where they are mapped.
    pub(crate) fn mapped(&self, layout: &Layout) -> Vec<TrackedRange> {
        let range = |(number, known): (usize, &KnownRegion)| TrackedRange {
            address: known.address,
            range: layout.region_range(number),
        };
        self.regions.iter().enumerate().map(range).collect()
    }

    /// The memory.
    pub(crate) fn memory(&self) -> Result<Arc<dyn GuestMemory>, Fault> {
        let layout = self.layout()?;
        let mut files = Vec::new();
        for known in &self.regions {
            if let Place::File { fd, offset } = &known.place {
                let copy = fd.try_clone();
                let file = copy.map_err(|error| Fault::new(Code::System, error))?;
                files.push(RegionFile {
                    file: File::from(file),
                    offset: *offset,
                });
            }
        }
        if files.len() == self.regions.len() {
            let memory = FileMemory::new(layout, files);
            return Ok(Arc::new(
                memory.map_err(|error| Fault::new(Code::Memory, error))?,
            ));
        }
        if !files.is_empty() {
            let text = "regions in files and private ones do not go together: put all into files";
            return Err(Fault::argument(text));
        }
        self.check_private(&layout)?;
        let starts = self.regions.iter();
        let starts =
            starts.map(|known| std::ptr::with_exposed_provenance_mut(known.address as usize));
        // SAFETY: the regions are mapped as they must be now, and pagelift_ram_add makes the caller
        // promise that they stay so. The addresses are aligned, and there is one for each.
        Ok(Arc::new(unsafe {
            MappedMemory::new(layout, starts.collect())
        }))
    }

    /// That what is said to be private memory is.
    fn check_private(&self, layout: &Layout) -> Result<(), Fault> {
        let failed = |error| Fault::new(Code::System, error);
        let mut mappings = Mappings::open(None).map_err(failed)?;
        for (known, mapped) in self.regions.iter().zip(self.mapped(layout)) {
            let addresses = mapped.address..mapped.address.saturating_add(mapped.range.bytes().0);
            if !mappings.are_private_anonymous(addresses).map_err(failed)? {
                return Err(Fault::argument(format!(
                    "the region {} is not mapped as private anonymous memory: for a file, give it",
                    known.region.name
                )));
            }
        }
        Ok(())
    }

    /// The memory, and what tracks the writes to it: the page tables, if nothing else is named.
    pub(crate) fn ram(&self, caller: &Arc<Caller>) -> Result<GuestRam, Fault> {
        let memory = self.memory()?;
        let layout = memory.layout().clone();
        let by_default = [Tracking::PageTables];
        let tracking = match &*self.tracking {
            [] => &by_default[..],
            named => named,
        };
        if let Some(name) = self.untracked(tracking, &layout) {
            return Err(Fault::new(
                Code::DirtyTracking,
                format!("nothing tracks the writes to all of the region {name}"),
            ));
        }
        let mut all: Option<Box<dyn DirtySource>> = None;
        for one in tracking {
            let one = one.source(self, &memory, caller)?;
            all = Some(match all {
                Some(others) => Box::new(Combined::new(others, one)),
                None => one,
            });
        }
        match all {
            Some(dirty) => Ok(GuestRam::new(memory, dirty)),
            None => Err(Fault::new(Code::DirtyTracking, "nothing tracks the writes")),
        }
    }

    /// A region with pages whose writes nothing knows of.
    fn untracked(&self, tracking: &[Tracking], layout: &Layout) -> Option<&str> {
        let mut known = PageBitmap::new(layout.pages());
        for one in tracking {
            one.covers(layout, &mut known);
        }
        let mut regions = self.regions.iter().enumerate();
        let (_, region) = regions.find(|(number, _)| {
            let pages = layout.region_range(*number);
            known.count_in(pages) < pages.count
        })?;
        Some(&region.region.name)
    }

    /// What tracks writes by the page tables of this process.
    pub(crate) fn page_tables(
        &self,
        memory: &Arc<dyn GuestMemory>,
    ) -> Result<Box<dyn DirtySource>, Fault> {
        let mapped = self.mapped(memory.layout());
        if mapped.iter().any(|mapped| mapped.address == 0) {
            return Err(Fault::new(
                Code::DirtyTracking,
                "a region has no address in this process, so page tables do not show the writes to \
                 it: give the address, or another way to track them",
            ));
        }
        let tracker = PagemapTracker::of_this_process(mapped)
            .map_err(|error| Fault::new(Code::DirtyTracking, error))?;
        Ok(Box::new(tracker.with_memory(Arc::clone(memory))))
    }
}

/// Checks a region, and keeps a copy of its file.
///
/// # Safety
/// The name can be read.
pub(super) unsafe fn known(region: Region) -> Result<KnownRegion, Fault> {
    // SAFETY: the caller's promise.
    let name = unsafe { text(region.name, "the region's name")? }.to_owned();
    let page_bytes = match region.page_bytes {
        0 => PAGE_BYTES as u64,
        bytes if bytes.is_power_of_two() && bytes >= PAGE_BYTES as u64 => bytes,
        bytes => return Err(Fault::argument(format!("{name}: pages of {bytes} bytes"))),
    };
    let address = region.address.expose_provenance() as u64;
    for (what, value) in [
        ("length", region.bytes),
        ("address", address),
        ("offset", region.offset),
    ] {
        if value % page_bytes != 0 {
            let text = format!("{name}: its {what} {value:#x} is no multiple of {page_bytes}");
            return Err(Fault::argument(text));
        }
    }
    let place = match region.in_file {
        0 if address == 0 => return Err(Fault::argument(format!("{name}: its address is null"))),
        0 => Place::Private,
        1 if region.fd < 0 => return Err(Fault::argument(format!("{name}: fd {}", region.fd))),
        1 => {
            // SAFETY: not negative; if it is no descriptor the kernel says so.
            let fd = unsafe { BorrowedFd::borrow_raw(region.fd) };
            let copy = fd.try_clone_to_owned();
            let bad = |error| Fault::argument(format!("{name}: fd {}: {error}", region.fd));
            Place::File {
                fd: Arc::new(copy.map_err(bad)?),
                offset: region.offset,
            }
        }
        other => return Err(Fault::argument(format!("{name}: in_file is {other}"))),
    };
    Ok(KnownRegion {
        region: memory::Region {
            name,
            pages: PageCount(region.bytes / PAGE_BYTES as u64),
            backing_page: ByteCount(page_bytes),
        },
        guest_address: region.guest_address,
        address,
        place,
    })
}
