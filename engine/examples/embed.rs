//! Moves a guest between two processes: `cargo run -p pagelift-engine --example embed`.
#![allow(unsafe_code, reason = "the guest writes raw memory")]
use pagelift_engine::memory::{FileMemory, MapPages, ReadPages, SharedMemory};
use pagelift_engine::{GuestRam, Incoming, Outgoing, SourceGuest, TargetGuest, guest};
use pagelift_transports::Endpoint;
use std::{env, error::Error, io, process::Command, sync::Arc, sync::Mutex, thread};

/// Memory, and a vCPU: whether it runs, and how many steps it did, each of which writes a page.
#[derive(Clone)]
struct Vm(Arc<SharedMemory>, Arc<Mutex<(bool, u64)>>);
impl Vm {
    fn step(&self) {
        if let (true, steps) = &mut *self.1.lock().unwrap() {
            let page = (*steps % self.0.layout().pages().0) as usize * 4096;
            // SAFETY: the page lies within the mapping, to which Rust holds no reference.
            unsafe { *self.0.region_start(0).add(page) = *steps as u8 };
            *steps += 1;
        }
    }
}
impl SourceGuest for Vm {
    fn pause(&mut self) -> guest::Result<()> {
        self.1.lock().unwrap().0 = false;
        Ok(())
    }
    fn save_devices(&mut self, out: &mut dyn io::Write) -> guest::Result<()> {
        Ok(out.write_all(&self.1.lock().unwrap().1.to_le_bytes())?)
    }
    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }
    fn resume(&mut self) -> guest::Result<()> {
        self.run()
    }
}
impl TargetGuest for Vm {
    fn load_devices(&mut self, state: &mut dyn io::Read) -> guest::Result<()> {
        let mut steps = [0; 8];
        state.read_exact(&mut steps)?;
        *self.1.lock().unwrap() = (false, u64::from_le_bytes(steps));
        Ok(())
    }
    fn run(&mut self) -> guest::Result<()> {
        self.1.lock().unwrap().0 = true;
        Ok(())
    }
}
fn main() -> Result<(), Box<dyn Error>> {
    let file = tempfile::tempfile_in("/dev/shm")?;
    file.set_len(64 << 20)?;
    let memory = SharedMemory::map(FileMemory::whole(file)?)?;
    let mut vm = Vm(memory.into(), Arc::default());
    let vcpu = vm.clone();
    thread::spawn(move || (0..u64::MAX).for_each(|_| vcpu.step()));
    if let Some(target) = env::args().nth(1) {
        vm.run()?;
        let ram = GuestRam::shared(vm.0.clone())?;
        let link = target.parse::<Endpoint>()?.connect()?;
        let job = Outgoing::new(link, ram, vm).verify(true).start()?;
        println!("left: {:?}", job.wait().result?.downtime);
    } else {
        let listener = "tcp://127.0.0.1:0".parse::<Endpoint>()?.listen()?;
        let job = Incoming::new(listener, vm.0.clone(), vm.clone());
        let mut source = Command::new("/proc/self/exe").arg(job.address()).spawn()?;
        job.start()?.wait().result?;
        vm.pause()?;
        println!("arrived: {:?}; source: {}", vm.1, source.wait()?);
    }
    Ok(())
}
